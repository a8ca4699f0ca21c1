"""Messages on what goes wrong in a run: the symptom and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unet_cli.training.progress import EpochResult

BLANK_EPOCHS, BLANK_STEPS = 3, 50  # minimum epochs with a single predicted class, and steps of the run, for a warning


@dataclass(frozen=True)
class BadStep:
    """A step whose loss or gradient was not finite. images: name of each image of its batch, and whether its own values
    are not finite."""

    step: int
    images: list[tuple[str, bool]]

    @property
    def spoiled(self) -> list[str]:
        """Names of the images whose own values are not finite."""
        return list(dict.fromkeys(name for name, is_spoiled in self.images if is_spoiled))

    def describe(self) -> str:
        what = "an image has values that are not finite" if self.spoiled else "the loss or its gradient is not finite"
        names = self.spoiled or list(dict.fromkeys(name for name, _ in self.images))
        return f"step {self.step}: {what}, so the step is skipped; images: {', '.join(names)}"

    def likely_reason(self, precision: str, lr: float) -> str:
        """The likely reason of many such steps in a row, and the remedy."""
        if self.spoiled:
            return f"values are not finite in {', '.join(self.spoiled)}: correct them, or leave these images out"
        if precision == "float16":
            return "numbers have likely become too large for float16: try --precision bf16 or float32"
        return f"the learning rate is likely too high: try a lower --lr than {lr:g}"


def is_blank(rows: Sequence[EpochResult]) -> bool:
    """Whether the last epochs wrongly predicted background everywhere, or foreground everywhere."""
    last = [row for row in rows if row.val_foreground is not None][-BLANK_EPOCHS:]
    if len(last) < BLANK_EPOCHS or last[-1].step < BLANK_STEPS or last[-1].val_dice == 1.0:
        return False
    return {row.val_foreground for row in last} in ({0.0}, {1.0})


def describe_blank(last: EpochResult, mode: str) -> str:
    """A warning for a run where `is_blank` holds. last: its last epoch. mode: 'resize' or 'tile'."""
    if last.val_foreground == 0:
        only, crops = "background", "a higher --foreground-crops"
        if mode == "resize":
            crops = "--mode tile with --foreground-crops 0.5, where objects are small"
        remedies = f"--class-weights auto, --loss tversky, {crops}, or another --lr"
    else:
        only, remedies = "foreground", "a lower --lr, or --classes where masks are inverted"
    return (
        f"The network has predicted nothing but {only} for {BLANK_EPOCHS} epochs. If that doesn't change: try "
        f"{remedies}; check in the pictures of the run whether the masks are right"
    )


def slow_loader(images: int, reading: float, seconds: float, kind: str) -> str:
    """A warning where reading takes longer than computing, else ''. images: number in the epoch. reading, seconds: time
    spent waiting for images, and in all. kind: kind of device."""
    computing = seconds - reading
    if reading <= computing:
        return ""
    return (
        f"Reading is the bottleneck: {images / seconds:.3g} images a second come from the disk, and the {kind} could "
        f"train on {images / computing:.3g}. Faster: more --workers or processors, files on a local disk, smaller "
        "images, or more memory, in which decoded images are cached"
    )
