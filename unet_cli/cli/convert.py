"""`unet convert`: a data set in another form."""

from __future__ import annotations

import shlex

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.convert import ConvertConfig
from unet_cli.system.console import Console, counted, few

TOOLS = {"coco": "COCO", "yolo": "YOLO", "labelme": "labelme"}


@command(app, "convert", ConvertConfig, example="unet convert --data data/ --to yolo --output yolo/")
def convert_cli(config: ConvertConfig, output: Output) -> int:
    """Write a data set in another form: masks, COCO, YOLO or labelme."""
    return convert(config, Console(output.json, output.quiet))


def convert(config: ConvertConfig, console: Console) -> int:
    """Convert the data. Raises UserError where they can't be used, as in training."""
    from unet_cli.data.check.examine import examine
    from unet_cli.data.class_names import file_names
    from unet_cli.data.export.convert import check_convertible, convert
    from unet_cli.data.folder.layout import layout_of
    from unet_cli.system.files import writable_folder

    card = examine(layout_of(config), config, console)
    card.refuse()
    check_convertible(card, config)
    writable_folder(config.output)
    *_, done = console.progress(convert(card, config), len(card.everything), "converting", "images")
    if card.labels.overlapping and config.to == "masks":
        names = card.labels.scored_names
        renamed = [
            f"masks/{safe}/ holds {name}" for safe, name in zip(file_names(names), names, strict=True) if safe != name
        ]
        console.say(*[f"Not every name can be a folder's: {few(renamed)}"] * bool(renamed))
    if done.ignored:
        form = "YOLO has" if config.to == "yolo" else "Masks of a class each have"
        console.say(f"{form} no ignored pixels: those of {counted(done.ignored, 'image')} are background now")
    shown = ", ".join(f"{count:,} {split}" for split, count in done.images.items())
    what = "masks" if config.to == "masks" else f"{TOOLS[config.to]} annotations"
    console.document(
        {"output": str(config.output), "to": config.to, "images": dict(done.images), "objects": done.objects}
    )
    console.result(
        f"{counted(done.images.total(), 'image')} ({shown}) with {what} of {counted(done.objects, 'object')} of "
        f"{', '.join(card.labels.names[1:])} written to {config.output}",
        "Next, train on them:",
        f"  unet train --data {shlex.quote(str(config.output))}",
    )
    return DONE
