"""Figures of the page: SVG that stands in the page itself and takes the colour of its text, in light and dark.

No text in them comes from a user: names of classes stand beside a figure, where the page escapes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_cli.data.colours import Colour
from unet_cli.metrics.calibration import Reliability
from unet_cli.report.contents import Curve, Sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 4.6, 3.0  # inches; a phone shows a figure at about that size
TRAIN_COLOUR, VAL_COLOUR = "#d9822b", "#2e86c1"
# Seen on white and on black; with markers, a colour may come again.
LINE_COLOURS = ("#2e86c1", "#d9822b", "#2a9d6f", "#c05a9c", "#d1492e", "#8a7a2e", "#7a68c8")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#000000",
    "grid.alpha": 0.12,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "unet",
}


def draw_losses(curves: Sequence[Curve]) -> str:
    """SVG: loss over epochs in training and validation, thin lines where there are several runs."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, [curve.train_loss for curve in curves], TRAIN_COLOUR, "training")
        _lines(axes, curves, [curve.val_loss for curve in curves], VAL_COLOUR, "validation")
        axes.set(xlabel="epoch", ylabel="loss")
        axes.set_ylim(bottom=0)
        axes.legend()

    return _drawn("losses", draw)


def draw_dice(curves: Sequence[Curve]) -> str:
    """SVG: Dice over epochs in validation."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, [curve.val_dice for curve in curves], VAL_COLOUR, "validation")
        axes.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1))

    return _drawn("dice", draw)


def draw_sizes(sizes: Sizes, colours: Mapping[str, Colour]) -> str:
    """SVG: how many objects were found, missed and false, by area. colours: of right pixels and of errors."""
    from matplotlib.ticker import MaxNLocator

    edges = size_edges(int(max(part.max(initial=1) for part in (sizes.found, sizes.missed, sizes.false))))
    found, missed, false = (np.histogram(part, edges)[0] for part in (sizes.found, sizes.missed, sizes.false))

    def draw(axes: Axes) -> None:
        places = np.arange(len(edges) - 1)
        axes.bar(places + 0.28, found, 0.4, color=_hex(colours["right"]), label="found")
        axes.bar(places + 0.28, missed, 0.4, bottom=found, color=_hex(colours["missed"]), label="missed")
        axes.bar(places + 0.72, false, 0.4, color=_hex(colours["false"]), label="false")
        every = 1 + len(edges) // 10  # or labels would touch
        axes.set_xticks(np.arange(len(edges))[::every], [_short(edge) for edge in edges[::every]])
        axes.set(xlabel="area in pixels", ylabel="objects")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: _short(round(value)))
        axes.grid(visible=False, axis="x")
        axes.legend()

    return _drawn("sizes", draw)


def draw_reliability(name: str, found: Reliability) -> str:
    """SVG: how often pixels are of a class, over the probability that the network gives; a line for each class.

    name: of the figure, unlike others of the page. Colours and markers: see `line_style`.
    """
    # The last bits of a probability depend on the batch size and the processor; the page must not. 0.001 is a quarter
    # of a point.
    confidences, frequencies = found.confidence.round(3), found.frequency.round(3)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#000000", alpha=0.5, linestyle="--", linewidth=0.8)
        for index, (confidence, frequency) in enumerate(zip(confidences, frequencies, strict=True)):
            colour, marker = line_style(index)
            axes.plot(confidence, frequency, color=colour, marker=marker, markersize=3.5, linewidth=1.2)
        axes.set(xlabel="probability", ylabel="share that is of the class", xlim=(0, 1), ylim=(0, 1))

    return _drawn(name, draw)


def line_style(index: int) -> tuple[str, str]:
    """Colour and marker of a class; MARKERS has the marker as a letter."""
    return LINE_COLOURS[index % len(LINE_COLOURS)], list(MARKERS)[index % len(MARKERS)]


def size_edges(largest: int) -> np.ndarray:
    """1, 3, 10, 30, 100, ... up to the first that is larger: where one size of objects ends and the next begins."""
    edges = [1, 3]
    while edges[-1] <= largest:
        edges.append(10 * edges[-2])
    return np.array(edges)


def _drawn(name: str, draw: Callable[[Axes], None]) -> str:
    """A figure of a single axes as an SVG element; all ids in it begin with the name."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        draw(figure.add_axes((0.14, 0.16, 0.84, 0.79)))
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _for_a_page(file.getvalue(), name)


def _for_a_page(svg: str, name: str) -> str:
    """An SVG file -> an element of the width that there is, black being the colour of the text around it."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", element)
    element = element.replace("stroke: #000000", "stroke: currentColor").replace("fill: #000000", "fill: currentColor")
    box = re.search(r'viewBox="[^"]*"', element)
    assert box is not None
    return f'<svg {box[0]} fill="currentColor" aria-hidden="true"' + element[element.index(">") :]


def _lines(axes: Axes, curves: Sequence[Curve], values: Sequence[list[float]], colour: str, label: str) -> None:
    """A line for each run, where there are numbers; one entry of the legend."""
    from matplotlib.ticker import MaxNLocator

    for curve, line in zip(curves, values, strict=True):
        known = np.isfinite(line)  # not every epoch is validated
        if known.any():
            marker = "o" if known.sum() < 20 else None
            width = 1.5 if len(curves) == 1 else 0.8
            places = np.array(curve.epoch)[known], np.array(line)[known]
            axes.plot(*places, color=colour, label=label, marker=marker, markersize=3, linewidth=width)
            label = ""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _hex(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def _short(number: int) -> str:
    """300, 3k, 30M: a label of an axis."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)
