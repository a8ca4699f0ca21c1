"""`unet check`: what a folder of images and masks holds, and what is wrong with it."""

from __future__ import annotations

import gc
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unet_cli.cli import app
from unet_cli.cli.options import DONE, USER_ERROR, command
from unet_cli.config.base import Output, flag_of
from unet_cli.config.data import CheckConfig
from unet_cli.config.model import DEFAULT_SIZE
from unet_cli.errors import UserError
from unet_cli.system.console import Console, counted

if TYPE_CHECKING:
    from unet_cli.data.check.card import Card
    from unet_cli.data.pictures import Tile
    from unet_cli.data.source import Pair


@command(app, "check", CheckConfig, example="unet check --data data/ --pictures look/")
def check_cli(config: CheckConfig, output: Output) -> int:
    """Describe a folder of images and masks, and list every problem."""
    # A check creates hundreds of thousands of objects without reference cycles: searching them for cycles would take a
    # fifth of the time.
    gc.disable()
    console = Console(output.json, output.quiet)
    try:
        return check(config, console)
    except UserError as error:
        console.document({"can_train": False, "error": str(error)})
        raise


def check(config: CheckConfig, console: Console) -> int:
    """Check the data; returns the exit code: USER_ERROR where training would refuse them.

    Raises UserError where there is no data set to describe.
    """
    from unet_cli.data.check.card import MAX_ODD, ask_about_missing
    from unet_cli.data.check.described import how_read
    from unet_cli.data.check.examine import examine
    from unet_cli.data.check.problems import listed
    from unet_cli.data.folder.layout import layout_of

    layout = layout_of(config)
    card = examine(layout, config, console)
    # Without output, the problems would be invisible: then they are raised as an error.
    if console.quiet and not console.json:
        card.refuse()
    odd = [problem for problem in card.problems if not problem.refuses]
    figures, decisions = ({}, []) if card.is_volumetric else _of_images(card, config, console)
    console.document(card.plain() | figures)
    console.result(*card.describe(), *how_read(card), *decisions, *card.details())
    if card.refusals:
        console.result(
            f"{counted(len(card.refusals), 'problem')} to put right before training:",
            *listed(card.refusals),
            *ask_about_missing(card.layout),
        )
    if odd:
        console.result("Worth a look:", *listed(odd, MAX_ODD))
    if config.pictures is not None:
        console.result(f"Contact sheet: {_draw(card, config)}")
    console.result("", *_next_step(card, config))
    return USER_ERROR if card.refusals else DONE


def _of_images(card: Card, config: CheckConfig, console: Console) -> tuple[dict[str, Any], list[str]]:
    """What training decides by the pixels of images, as JSON values and as lines."""
    from unet_cli.data.check.orientation import way_up
    from unet_cli.data.check.stretching import mode_for, stretch_cost

    cost = stretch_cost(card, DEFAULT_SIZE, config, console)
    mode, why = mode_for("auto", cost)
    doubt = " (close to the limit: a run that is long enough tries both)" if cost.is_close else ""
    up = way_up(card.known["train"])
    figures = {"stretching": asdict(cost) | {"mode": mode}, "way_up": asdict(up) | {"orientation": up.orientation}}
    lines = [f"  mode     {why or cost.describe()}{doubt}", f"  way up   {up.describe()}", *cost.details()]
    return figures, lines


def _draw(card: Card, config: CheckConfig) -> str:
    """Write the contact sheet and return its path: pairs with problems first, then an even sample of the others."""
    from unet_cli.data.colours import colours_of
    from unet_cli.data.pictures import MAX_TILES, write_contact_sheet
    from unet_cli.data.source import spread

    assert config.pictures is not None
    if config.pictures.resolve().is_relative_to(card.layout.root.resolve()):
        raise UserError(f"--pictures {config.pictures} is inside the data: choose a folder elsewhere")
    known = dict(card.everything)
    named = dict.fromkeys(pair for problem in card.problems for pair in problem.pairs if pair in known)
    alarming = list(named)[:MAX_TILES]
    calm = [pair for pair in known if pair not in named]
    calm = spread(calm, MAX_TILES - len(alarming))
    tiles = (_tile(card, pair, config.keep_alpha, alarm=pair in named) for pair in (*alarming, *calm))
    return str(write_contact_sheet(config.pictures, tiles, colours_of(card.labels)))


def _tile(card: Card, pair: Pair, keep_alpha: bool, alarm: bool) -> Tile:
    """A pair on the contact sheet; of a volume, one slice."""
    from unet_cli.data.imagefile import read_image
    from unet_cli.data.maskfile import one_mask, read_mask
    from unet_cli.data.pictures import Tile, place_to_show

    image = read_image(pair.image, keep_alpha)
    indices = one_mask(card.labels.encode(read_mask(pair.mask)), pair.mask)
    if not pair.image.is_volume:
        return Tile(pair.name, image, indices, alarm)
    place = place_to_show(indices)
    return Tile(f"{pair.name}, slice {place + 1} of {len(indices)}", image[:, place], indices[place], alarm)


def _next_step(card: Card, config: CheckConfig) -> list[str]:
    """The command that trains on these data."""
    flags = []
    for name in ("data", "images", "masks", "pair", "classes", "ignore_index"):
        value = getattr(config, name)
        flags += [] if value is None else [flag_of(name), str(value)]
    flags += ["--volume-folders"] * config.volume_folders
    flags += ["--missing-masks", "background"] * (config.missing_masks == "background")
    flags += ["--keep-alpha"] * config.keep_alpha + ["--skip-bad"] * (config.skip_bad or bool(card.refusals))
    is_single = len(card.pairs("train")) == 1 and not card.pairs("val") and not card.is_volumetric
    flags += ["--val-fraction", "0"] * is_single
    line = f"  {shlex.join(['unet', 'train', *flags])}"
    if card.refusals:
        return ["Put the problems right, or train without the files that are named:", line]
    return ["Next, train a network on it:", line]
