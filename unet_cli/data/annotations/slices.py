"""Shapes that name the slices of a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unet_cli.data.annotations.shapes import Annotated, Shape


def by_slice(
    shapes: Sequence[tuple[int | None, Shape]], problem: str
) -> tuple[dict[str, Annotated], Mapping[int, str]]:
    """Entries of an AnnotationFile, and its `slices`: '' with all shapes, for an image of one page, and one for each
    slice, with those that name it and those that name none. shapes: each with its slice from 0."""
    images = {"": Annotated(None, tuple(shape for _, shape in shapes), problem=problem)}
    slices = {number: f"slice {number + 1}" for number in sorted({one for one, _ in shapes if one is not None})}
    for number, name in slices.items():
        own = tuple(shape for one, shape in shapes if one in (None, number))
        images[name] = Annotated(None, own, problem=problem)
    return images, slices
