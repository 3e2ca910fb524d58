"""Drawings of the site as SVG: critical differences, curves, cost against quality. Colours are classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTH = 720
COLOURS = 8
"""Curves have so many colours; the same ones return with another dash."""


def critical_difference(names: Sequence[str], ranks: Floats, difference: float) -> Markup:
    """Demsar's diagram: mean ranks on an axis, best at the left; bars join methods that Nemenyi's test does not separate."""
    order = np.argsort(ranks, kind="stable")
    ranks, names = ranks[order], [names[i] for i in order]
    count = len(names)
    width, margin = 860, 262  # names of 36 characters with their ranks have room beside the axis
    left, right = margin, width - margin
    groups = cliques(ranks, difference)
    below = 62 + 9 * len(groups)
    half = -(-count // 2)
    height = below + 18 * half + 8

    def x(rank: float) -> float:
        return left + (right - left) * (rank - 1) / max(count - 1, 1)

    parts = [_line(left, 50, right, 50, "axis")]
    step = max(1, -(-count // 10))
    for tick in range(1, count + 1, step):
        parts += [_line(x(tick), 45, x(tick), 50, "axis"), _text(x(tick), 40, str(tick), "middle")]
    parts += [_line(left, 18, left + x(1 + difference) - x(1), 18, "bar"), _text(left, 12, f"CD = {difference:.2f}", "start")]
    for number, (first, last) in enumerate(groups):
        y = 60 + 9 * number
        parts.append(_line(x(ranks[first]) - 4, y, x(ranks[last]) + 4, y, "bar"))
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        leftwards = i < half
        y = below + 18 * (i if leftwards else count - 1 - i) + 10
        edge = left - 8 if leftwards else right + 8
        parts += [_path([(x(rank), 50), (x(rank), y), (edge, y)], "lead")]
        parts.append(_text(edge + (-4 if leftwards else 4), y + 4, f"{name}  {rank:.2f}", "end" if leftwards else "start"))
    return _svg(height, parts, "Critical-difference diagram of the mean ranks over images", width)


def cliques(ranks: Floats, difference: float) -> list[tuple[int, int]]:
    """The longest runs of sorted mean ranks that lie within the difference, of two methods at least: first and last index."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + difference, side="right")) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def curves(series: Sequence[tuple[int, str, Floats]], ends: tuple[float, float], label: str) -> Markup:
    """Lines over an axis from ``ends[0]`` to ``ends[1]``; each is (number of the method, name, values (n,))."""
    left, right, top, bottom, height = 52, WIDTH - 12, 12, 268, 310
    values = np.concatenate([line for _, _, line in series])
    low, high = _padded(float(np.nanmin(values)), float(np.nanmax(values)))
    parts = _axes(left, right, top, bottom, (low, high), ends, label)
    for number, name, line in series:
        xs = np.linspace(left, right, len(line))
        ys = bottom - (line - low) / (high - low) * (bottom - top)
        points = [(a, b) for a, b in zip(xs.tolist(), ys.tolist(), strict=True) if math.isfinite(b)]
        colour = f"line c{number % COLOURS} d{number // COLOURS % 3}"
        body = _path(points, colour) + Markup("<title>{}</title>").format(name)
        parts.append(Markup('<g class="series" data-method="{}">{}</g>').format(number, body))
    return _svg(height, parts, label)


def scatter(points: Sequence[tuple[str, float, float]], label: str, upward: str) -> Markup:
    """Points (name, cost, quality) over a logarithmic axis of cost (1 + passes); small quality, a mean rank, is at the top."""
    left, right, top, bottom, height = 52, WIDTH - 200, 16, 428, 472
    costs = np.log10(1 + np.array([cost for _, cost, _ in points]))
    low, high = _padded(min(rank for _, _, rank in points), max(rank for _, _, rank in points))
    widest = max(float(costs.max()), 1.0)
    parts = [_line(left, top, left, bottom, "axis"), _line(left, bottom, right, bottom, "axis")]
    for power in range(math.ceil(widest) + 1):
        x = left + (right - left) * min(power / widest, 1)
        if power <= widest:
            parts += [_line(x, bottom, x, bottom + 5, "axis"), _text(x, bottom + 18, f"{10**power - (power == 0):,}", "middle")]
    for value in _ticks(low, high):
        y = top + (value - low) / (high - low) * (bottom - top)
        parts += [_line(left - 5, y, left, y, "axis"), _text(left - 8, y + 4, f"{value:g}", "end")]
    places = [
        (left + (right - left) * cost / widest, top + (rank - low) / (high - low) * (bottom - top))
        for (_, _, rank), cost in zip(points, costs.tolist(), strict=True)
    ]
    names = [name for name, _, _ in points]
    for name, (x, y), label_y in zip(names, places, heights(names, places), strict=True):
        parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"></circle>').format(x, y))
        if label_y > y:
            parts.append(_line(x, y, x + 8, label_y, "lead"))
        parts.append(_text(x + 8, label_y + 4, name, "start"))
    parts += [_text((left + right) / 2, height - 6, label, "middle"), _text(left + 6, top, upward, "start")]
    return _svg(height, parts, f"{upward} against {label}")


def heights(names: Sequence[str], places: Sequence[tuple[float, float]]) -> list[float]:
    """Where the names of points (x, y) are written so that none lies on another: beside its point or, if need be, below."""
    taken: list[tuple[float, float, float]] = []
    found = [0.0] * len(names)
    for i in sorted(range(len(names)), key=lambda i: places[i][1]):
        (x, y), width = places[i], 7 * len(names[i]) + 12
        while any(abs(y - other) < 12 and x < end and start < x + width for start, end, other in taken):
            y += 3
        taken.append((x, x + width, y))
        found[i] = y
    return found


def _axes(
    left: float, right: float, top: float, bottom: float, values: tuple[float, float], ends: tuple[float, float], label: str
) -> list[Markup]:
    parts = [_line(left, top, left, bottom, "axis"), _line(left, bottom, right, bottom, "axis")]
    for value in _ticks(*values):
        y = bottom - (value - values[0]) / (values[1] - values[0]) * (bottom - top)
        parts += [_line(left, y, right, y, "grid"), _text(left - 8, y + 4, f"{value:g}", "end")]
    for value in _ticks(*ends):
        x = left + (right - left) * (value - ends[0]) / (ends[1] - ends[0])
        parts += [_line(x, bottom, x, bottom + 5, "axis"), _text(x, bottom + 18, f"{value:g}", "middle")]
    return [*parts, _text((left + right) / 2, bottom + 38, label, "middle")]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"></line>').format(kind, x1, y1, x2, y2)


def _path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"></polyline>').format(kind, " ".join(f"{x:.1f},{y:.1f}" for x, y in points))


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(height: float, parts: Sequence[Markup], label: str, width: int = WIDTH) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">').format(width, height, label)
    return head + Markup("").join(map(escape, parts)) + Markup("</svg>")
