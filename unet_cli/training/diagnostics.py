"""What goes wrong in a run, in words: what was seen, and what to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unet_cli.training.progress import EpochResult

BLANK_EPOCHS, BLANK_STEPS = 3, 50  # with one class alone predicted, at least, before that is called out


@dataclass(frozen=True)
class BadStep:
    """A step whose loss or gradient was not finite. images: of its batch, by name, and whether their own values are not
    finite either."""

    step: int
    images: list[tuple[str, bool]]

    @property
    def spoiled(self) -> list[str]:
        """The images that are to blame, without a doubt."""
        return list(dict.fromkeys(name for name, is_spoiled in self.images if is_spoiled))

    def describe(self) -> str:
        what = "an image holds values that are not finite" if self.spoiled else "the loss or its gradient is not finite"
        names = self.spoiled or list(dict.fromkeys(name for name, _ in self.images))
        return f"step {self.step}: {what}, so the step is skipped; images: {', '.join(names)}"

    def likely_reason(self, precision: str, lr: float) -> str:
        """Why there are many in a row, and what to try."""
        if self.spoiled:
            return f"there are values that are not finite in {', '.join(self.spoiled)}: put that right, or leave it out"
        if precision == "float16":
            return "numbers have likely become too large for float16: try --precision bf16 or float32"
        return f"the learning rate is likely too high: try a lower --lr than {lr:g}"


def is_blank(rows: Sequence[EpochResult]) -> bool:
    """Whether the last epochs predicted nothing but background, or nothing but foreground, and that was wrong."""
    last = [row for row in rows if row.val_foreground is not None][-BLANK_EPOCHS:]
    if len(last) < BLANK_EPOCHS or last[-1].step < BLANK_STEPS or last[-1].val_dice == 1.0:
        return False
    return {row.val_foreground for row in last} in ({0.0}, {1.0})


def describe_blank(last: EpochResult, mode: str) -> str:
    """Of such a run, whose last epoch is given. mode: how its images become samples."""
    if last.val_foreground == 0:
        only, crops = "background", "a higher --foreground-crops"
        if mode == "resize":
            crops = "--mode tile with --foreground-crops 0.5, where objects are small"
        remedies = f"--class-weights auto, --loss tversky, {crops}, or another --lr"
    else:
        only, remedies = "foreground", "a lower --lr, or --classes where masks are inverted"
    return (
        f"The network has predicted nothing but {only} for {BLANK_EPOCHS} epochs. If that doesn't change: try "
        f"{remedies}; look at the pictures of the run to see whether the masks are what they should be"
    )


def slow_loader(images: int, reading: float, seconds: float, kind: str) -> str:
    """Says that reading takes longer than computing, where it does. reading, seconds: of an epoch of `images`, spent
    waiting for images, and in all. kind: of the device."""
    computing = seconds - reading
    if reading <= computing:
        return ""
    return (
        f"Reading sets the pace: {images / seconds:.3g} images a second come from the disk, and the {kind} could train "
        f"on {images / computing:.3g}. Faster: more --workers or processors, files on a local disk, smaller images, or "
        "more memory, where decoded images are kept"
    )
