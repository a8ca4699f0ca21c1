"""Figures of the report: inline SVG in the colour of the surrounding text, for light and dark mode.

They contain no text from users: class names stand beside a figure, where the template escapes them.
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
# Legible on white and on black; each colour can be reused with another marker.
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
    """SVG: training and validation loss over epochs, in thin lines for several runs."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, [curve.train_loss for curve in curves], TRAIN_COLOUR, "training")
        _lines(axes, curves, [curve.val_loss for curve in curves], VAL_COLOUR, "validation")
        axes.set(xlabel="epoch", ylabel="loss")
        axes.set_ylim(bottom=0)
        axes.legend()

    return _drawn("losses", draw)


def draw_dice(curves: Sequence[Curve]) -> str:
    """SVG: validation Dice over epochs."""

    def draw(axes: Axes) -> None:
        _lines(axes, curves, [curve.val_dice for curve in curves], VAL_COLOUR, "validation")
        axes.set(xlabel="epoch", ylabel="Dice", ylim=(0, 1))

    return _drawn("dice", draw)


def draw_sizes(sizes: Sizes, colours: Mapping[str, Colour], extent: str = "area in pixels") -> str:
    """SVG: histogram of found, missed and false objects by area, or whatever extent. colours: colours of correct pixels
    and of errors."""
    from matplotlib.ticker import MaxNLocator

    edges = size_edges(int(max(part.max(initial=1) for part in (sizes.found, sizes.missed, sizes.false))))
    found, missed, false = (np.histogram(part, edges)[0] for part in (sizes.found, sizes.missed, sizes.false))

    def draw(axes: Axes) -> None:
        places = np.arange(len(edges) - 1)
        axes.bar(places + 0.28, found, 0.4, color=_hex(colours["right"]), label="found")
        axes.bar(places + 0.28, missed, 0.4, bottom=found, color=_hex(colours["missed"]), label="missed")
        axes.bar(places + 0.72, false, 0.4, color=_hex(colours["false"]), label="false")
        every = 1 + len(edges) // 10  # so that labels don't overlap
        axes.set_xticks(np.arange(len(edges))[::every], [_short(edge) for edge in edges[::every]])
        axes.set(xlabel=extent, ylabel="objects")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda value, _: _short(round(value)))
        axes.grid(visible=False, axis="x")
        axes.legend()

    return _drawn("sizes", draw)


def draw_reliability(name: str, found: Reliability) -> str:
    """SVG: reliability diagram, observed frequency over predicted probability, with a line for each class.

    name: unique name of the figure on the page. Colours and markers: see `line_style`.
    """
    # The last bits of a probability depend on the batch size and the processor; rounding keeps the page reproducible.
    # 0.001 is a quarter of a typographic point here.
    confidences, frequencies = found.confidence.round(3), found.frequency.round(3)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="#000000", alpha=0.5, linestyle="--", linewidth=0.8)
        for index, (confidence, frequency) in enumerate(zip(confidences, frequencies, strict=True)):
            colour, marker = line_style(index)
            axes.plot(confidence, frequency, color=colour, marker=marker, markersize=3.5, linewidth=1.2)
        axes.set(xlabel="probability", ylabel="fraction of positives", xlim=(0, 1), ylim=(0, 1))

    return _drawn(name, draw)


def line_style(index: int) -> tuple[str, str]:
    """Colour and marker of a class; MARKERS maps the marker to a character."""
    return LINE_COLOURS[index % len(LINE_COLOURS)], list(MARKERS)[index % len(MARKERS)]


def size_edges(largest: int) -> np.ndarray:
    """Bin edges 1, 3, 10, 30, 100, ... up to the first that is larger."""
    edges = [1, 3]
    while edges[-1] <= largest:
        edges.append(10 * edges[-2])
    return np.array(edges)


def _drawn(name: str, draw: Callable[[Axes], None]) -> str:
    """A figure with one axes as an SVG element; all its ids start with the name."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        draw(figure.add_axes((0.14, 0.16, 0.84, 0.79)))
        # Without dates and versions, equal results give equal files.
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _for_a_page(file.getvalue(), name)


def _for_a_page(svg: str, name: str) -> str:
    """An SVG file -> an inline element that fills the available width, with black replaced by the text colour."""
    element = svg[svg.index("<svg") :]
    # Several figures share one document, so ids and the references to them need a prefix to be unique.
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", element)
    element = element.replace("stroke: #000000", "stroke: currentColor").replace("fill: #000000", "fill: currentColor")
    box = re.search(r'viewBox="[^"]*"', element)
    assert box is not None
    return f'<svg {box[0]} fill="currentColor" aria-hidden="true"' + element[element.index(">") :]


def _lines(axes: Axes, curves: Sequence[Curve], values: Sequence[list[float]], colour: str, label: str) -> None:
    """A line for each run, without NaN; one legend entry."""
    from matplotlib.ticker import MaxNLocator

    for curve, line in zip(curves, values, strict=True):
        known = np.isfinite(line)  # epochs without validation are NaN
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
    """Axis label of a number: 300, 3k, 30M."""
    for unit, letter in ((10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return str(number)
