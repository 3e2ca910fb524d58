"""Figures of maps and of curves, for notebooks and for `xbench explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from xbench.board.board import Board
from xbench.board.curves import mean_curves
from xbench.board.figures import Picture, plain
from xbench.board.text import cut, short_names
from xbench.errors import XbenchError
from xbench.ops.normalise import minmax
from xbench.types import Images, Maps

WIDE = 5
"""Most panels in a row of maps."""
STYLES = ("-", "--", ":")
"""Of lines, for more than ten methods."""


def maps_figure(x: Images, titles: Sequence[str], maps: Mapping[str, Maps]) -> Picture:
    """Images (n, c, h, w) in [0, 1] with their titles, each followed by its map (n, h, w) of every method laid over it.

    Maps are min-max normalised one by one, as in the metrics; a bar names the colours.
    """
    columns = min(WIDE, 1 + len(maps))
    rows = -(-(1 + len(maps)) // WIDE)
    with plain():
        figure = Picture(figsize=(2.2 * columns + 0.9, 2.5 * rows * len(x)), dpi=150, layout="constrained")
        panels = figure.subplots(rows * len(x), columns, squeeze=False).reshape(len(x), -1)
        shown = {name: minmax(of) for name, of in maps.items()}
        for i, line in enumerate(panels):
            _image(line[0], x[i])
            line[0].set_title(titles[i], fontsize=9, parse_math=False)
            for panel, (name, of) in zip(line[1:], shown.items(), strict=False):
                _image(panel, x[i].mean(0, keepdim=True))
                shade = panel.imshow(of[i].numpy(), cmap="turbo", vmin=0, vmax=1, alpha=0.6)
                panel.set_title(cut(name), fontsize=9, parse_math=False)
            for panel in line:
                panel.set_axis_off()
        if maps:
            short = min(0.8, 2.0 / (2.5 * rows * len(x)) + 0.2)
            figure.colorbar(shade, ax=list(panels.flatten()), shrink=short, label="attribution, least to most")
    return figure


def curves_figure(board: Board) -> Picture:
    """The mean curve of every method, a panel for each curve that a metric says is worth drawing, two in a row.

    Raises XbenchError if there is none.
    """
    drawn = list(mean_curves(board))
    if not drawn:
        raise XbenchError(f"{board.title}: no metric of it has curves, as deletion and insertion have")
    names = short_names(board.summary)
    styles = {m: (f"C{i % 10}", STYLES[i // 10 % len(STYLES)]) for i, m in enumerate(board.ordered)}
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    with plain():
        figure = Picture(figsize=(4.5 * columns + 2, 3 * rows), dpi=100, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, curves in zip(panels, drawn, strict=False):
            for method, mean in curves.means.items():
                colour, style = styles[method]
                x = np.linspace(*curves.ends, len(mean))
                panel.plot(x, mean, style, color=colour, label=cut(names[method]), linewidth=1.2)
            panel.set_title(curves.title, fontsize=9, parse_math=False)
            panel.set_xlabel(curves.axis, parse_math=False)
        for panel in panels[len(drawn) :]:
            panel.set_axis_off()
        handles = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        legend = figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _image(panel: object, image: Tensor) -> None:
    """Draws an image (c, h, w) in [0, 1]."""
    pixels = image.permute(1, 2, 0).numpy() if len(image) == 3 else image.mean(0).numpy()
    panel.imshow(pixels, cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
