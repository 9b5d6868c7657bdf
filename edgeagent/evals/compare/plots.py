"""Scatter plots as inline SVG: points with labels, intervals, and a line where the base stands.

Drawn by hand rather than by a plotting library: the page stays one file that follows the reader's
colours, its text can be selected, and no extra has to be installed. Looks come from the page's
style sheet through classes. Knows nothing of builds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 600, 380
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 20, 52
RADIUS = 5
LETTER, LINE = 9.0, 16
"""Room that a label's letters take in the widest of usual fonts, for keeping labels apart."""
MAX_TICKS = 7


@dataclass(frozen=True, slots=True)
class Point:
    """One mark."""

    label: str
    x: float
    y: float
    low: float | None = None
    """Ends of the interval of y; None draws none."""
    high: float | None = None
    is_base: bool = False
    about: str = ""
    """Said when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What one direction means."""

    title: str
    is_log: bool = False
    least: float | None = None
    """Where it begins; None: a little before the first point."""
    most: float | None = None
    write: Callable[[float], str] = "{:g}".format


@dataclass(frozen=True, slots=True)
class Rule:
    """A dashed line across the plot."""

    label: str
    at: float
    is_upright: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """Everything that a plot shows, however it is drawn."""

    title: str
    caption: str
    points: Sequence[Point]
    """Not empty; every point lies on both axes."""
    x: Axis
    y: Axis
    rules: Sequence[Rule] = ()


def scatter(plot: Plot) -> str:
    """Return the plot as an `<svg>` element."""
    title, points, x, y, rules = plot.title, plot.points, plot.x, plot.y, plot.rules
    xs = [*(p.x for p in points), *(rule.at for rule in rules if rule.is_upright)]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    ys += [rule.at for rule in rules if not rule.is_upright]
    across = _Scale(x, xs, LEFT, WIDTH - RIGHT)
    up = _Scale(y, ys, HEIGHT - BOTTOM, TOP)
    drawn = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        *_axes(x, y, across, up),
        *(line for rule in rules for line in _rule(rule, across, up)),
        *(line for point in points for line in _interval(point, across, up)),
        *(_mark(point, across, up) for point in points),
        *_labels(points, across, up),
        "</svg>",
    ]
    return "\n".join(drawn)


class _Scale:
    """Maps values to places on the page."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self._is_log = axis.is_log
        self._begin, self._end = begin, end
        low, high = self._inner(min(values)), self._inner(max(values))
        margin = 0.08 * (high - low) or max(abs(high) * 0.1, 0.1)
        self.low = self._inner(axis.least) if axis.least is not None else low - margin
        self.high = self._inner(axis.most) if axis.most is not None else high + margin

    def _inner(self, value: float) -> float:
        return math.log10(value) if self._is_log else value

    def at(self, value: float) -> float:
        share = (self._inner(value) - self.low) / (self.high - self.low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self) -> Iterator[float]:
        if self._is_log:
            yield from self._log_ticks()
            return
        step = _nice((self.high - self.low) / MAX_TICKS)
        for number in range(
            math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1
        ):
            yield round(number * step, 12)

    def _log_ticks(self) -> Iterator[float]:
        per_decade = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for first in per_decade:
                if self.low <= math.log10(first) + power <= self.high:
                    yield first * 10.0**power


def _nice(step: float) -> float:
    """Return the next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * (1 - 1e-9))


def _axes(x: Axis, y: Axis, across: _Scale, up: _Scale) -> Iterator[str]:
    bottom = HEIGHT - BOTTOM
    for value in up.ticks():
        at = up.at(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(y.write(value))}</text>'  # noqa: E501  one element
    for value in across.ticks():
        at = across.at(value)
        yield f'<line class="axis" x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 5}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{bottom + 19}" text-anchor="middle">{escape(x.write(value))}</text>'  # noqa: E501  one element
    yield f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}"/>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="title" x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x.title)}</text>'  # noqa: E501  one element
    centre = (TOP + bottom) / 2
    yield f'<text class="title" transform="translate(16 {centre:.0f}) rotate(-90)" text-anchor="middle">{escape(y.title)}</text>'  # noqa: E501  one element


def _rule(rule: Rule, across: _Scale, up: _Scale) -> Iterator[str]:
    if rule.is_upright:
        at = across.at(rule.at)
        yield f'<line class="rule" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        yield f'<text class="note" transform="translate({at - 5:.1f} {TOP + 2}) rotate(-90)" text-anchor="end">{escape(rule.label)}</text>'  # noqa: E501  one element
    else:
        at = up.at(rule.at)
        yield f'<line class="rule" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>'
        yield f'<text class="note" x="{LEFT + 4}" y="{at - 5:.1f}">{escape(rule.label)}</text>'


def _interval(point: Point, across: _Scale, up: _Scale) -> Iterator[str]:
    if point.low is None or point.high is None:
        return
    x, low, high = across.at(point.x), up.at(point.low), up.at(point.high)
    yield f'<line class="interval" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>'
    for end in (low, high):
        yield f'<line class="interval" x1="{x - 4:.1f}" y1="{end:.1f}" x2="{x + 4:.1f}" y2="{end:.1f}"/>'  # noqa: E501  one element


def _mark(point: Point, across: _Scale, up: _Scale) -> str:
    kind = "mark base" if point.is_base else "mark"
    return (
        f'<circle class="{kind}" cx="{across.at(point.x):.1f}" cy="{up.at(point.y):.1f}" '
        f'r="{RADIUS}"><title>{escape(point.about or point.label)}</title></circle>'
    )


def _labels(points: Sequence[Point], across: _Scale, up: _Scale) -> Iterator[str]:
    """Write each label beside its mark, where it covers neither marks nor other labels."""
    marks = [(across.at(point.x), up.at(point.y)) for point in points]
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in marks]
    for point, (x, y) in sorted(zip(points, marks, strict=True), key=lambda pair: pair[1][1]):
        width = LETTER * len(point.label)
        box = min(_around(x, y, width), key=lambda box: _cost(box, taken))
        taken.append(box)
        left, bottom = box[0], box[3] - 4
        place = f'x="{left:.1f}" y="{bottom:.1f}"'
        # Not by paint-order, which some viewers do not know and paint over the letters.
        yield f'<text class="halo" aria-hidden="true" {place}>{escape(point.label)}</text>'
        yield f'<text class="label" {place}>{escape(point.label)}</text>'


_Box = tuple[float, float, float, float]


def _around(x: float, y: float, width: float) -> Iterator[_Box]:
    """Yield places for a label, the preferred first: left, top, right, bottom."""
    gap = RADIUS + 5
    for rise in (0, -LINE, LINE, -2 * LINE, 2 * LINE):
        for left in (x + gap, x - gap - width):
            yield left, y - LINE / 2 + rise, left + width, y + LINE / 2 + rise


def _cost(box: _Box, taken: Sequence[_Box]) -> float:
    covered = sum(_overlap(box, other) for other in taken)
    left, top, right, bottom = box
    outside = max(0, LEFT - left) + max(0, right - WIDTH) + max(0, TOP - LINE - top)
    return covered + LINE * (outside + max(0, bottom - (HEIGHT - BOTTOM)))


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)
