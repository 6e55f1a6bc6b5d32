"""The charts, each one SVG.

They are drawn in coordinates of their own (bins, shares of a span), so that no number of the data, however
large, reaches matplotlib's arithmetic.
"""

import math
from collections.abc import Sequence
from datetime import datetime

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from todoke.jobs.report.shapes import Histogram, Timeline, seconds_of
from todoke.jobs.report.svg import INK, MUTED, SERIES, canvas, to_svg
from todoke.jobs.report.wording import count, share, short_number, shorten

WIDTH, HEIGHT = 4.6, 2.1
MARGINS = (0.5, 0.3, 0.15, 0.12)
BAR_INCHES = 0.24
LABEL_LETTERS = 20
TICKS = 6
MARKED_POINTS = 40
DAY, MONTH, YEAR = 86_400, 2_600_000, 31_000_000


def histogram_chart(shape: Histogram, key: str, label: str) -> str:
    """One bar for each bin, as high as its count."""
    bins = len(shape.counts)
    with canvas(WIDTH, HEIGHT, MARGINS) as (figure, axes):
        middles = [index + 0.5 for index in range(bins)]
        axes.bar(middles, shape.counts, width=0.66 if shape.unit else 0.94, color=SERIES, clip_on=False)
        _count_axis(axes, max(shape.counts))
        axes.set_xlim(0, bins)
        marks = middles if shape.unit else [*map(float, range(bins + 1))]
        marks = marks[:: math.ceil(len(marks) / (13 if shape.unit else TICKS + 1))]
        axes.set_xticks(marks, [short_number(_tidy(shape.start + mark * shape.width, shape.width)) for mark in marks])
        return to_svg(figure, key, label)


def bars_chart(top: Sequence[tuple[str, int]], others: int, present: int, key: str, label: str) -> str:
    """A bar lying for each of the `top` values with its count, and a pale one for all `others` together."""
    bars = [*top, ("all others", others)] if others else list(top)
    longest = max(times for _, times in bars)
    with canvas(WIDTH, BAR_INCHES * len(bars) + 0.1, (1.7, 0.05, 1.05, 0.05)) as (figure, axes):
        heights = [-float(index) for index in range(len(bars))]
        colors = [SERIES] * len(top) + [MUTED] * (len(bars) - len(top))
        axes.barh(heights, [times / longest for _, times in bars], height=0.68, color=colors, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0.5 - len(bars), 0.5)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.set_yticks(heights, [shorten(value, LABEL_LETTERS) for value, _ in bars])
        for height, (_, times) in zip(heights, bars, strict=True):
            words = f"{count(times)}  ({share(times, present)})"
            axes.text(times / longest + 0.02, height, words, va="center", color=INK)
        return to_svg(figure, key, label)


def rows_chart(shape: Timeline, key: str, label: str) -> str:
    """The rows of each period along the time."""
    with canvas(WIDTH, HEIGHT, MARGINS) as (figure, axes):
        starts, width = _along(shape)
        axes.bar(starts, shape.rows, width=width * 0.9, align="edge", color=SERIES, clip_on=False)
        _count_axis(axes, max(shape.rows))
        _time_axis(axes, shape, [start + width * 0.45 for start in starts])
        return to_svg(figure, key, label)


def means_chart(shape: Timeline, measure: int, key: str, label: str) -> str:
    """The mean of one measure in each period, as a line with gaps where there is none."""
    means = [math.nan if mean is None or not math.isfinite(mean) else mean for mean in shape.means[measure]]
    scale = _scale(means)
    with canvas(WIDTH, HEIGHT, MARGINS) as (figure, axes):
        starts, width = _along(shape)
        middles = [start + width * 0.45 for start in starts]
        marker = "o" if len(starts) <= MARKED_POINTS else ""
        axes.plot(
            middles,
            [mean / scale for mean in means],
            color=SERIES,
            linewidth=1.6,
            clip_on=False,
            marker=marker,
            markersize=3,
        )
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(lambda at, _: short_number(_tidy(at * scale, scale / 100)))
        axes.grid(axis="y")
        _time_axis(axes, shape, middles)
        return to_svg(figure, key, label)


def _scale(means: Sequence[float]) -> float:
    largest = max((abs(mean) for mean in means if not math.isnan(mean)), default=0.0)
    return 10.0 ** math.floor(math.log10(largest)) if largest > 1e-300 else 1.0


def _tidy(figure: float, step: float) -> float:
    """Undo what binary fractions add: 0.30000000000000004 in steps of 0.1 is 0.3."""
    if not math.isfinite(figure) or step <= 0:
        return figure
    return round(figure, max(0, min(300, 3 - math.floor(math.log10(step)))))


def _count_axis(axes: Axes, most: int) -> None:
    axes.set_ylim(0, most * 1.05)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(lambda at, _: short_number(int(at)))
    axes.grid(axis="y")


def _along(shape: Timeline) -> tuple[list[float], float]:
    """Where each period starts and how wide one is, as shares of the whole span."""
    first = seconds_of(shape.starts[0])
    whole = seconds_of(shape.starts[-1]) - first + shape.seconds
    return [(seconds_of(start) - first) / whole for start in shape.starts], shape.seconds / whole


def _time_axis(axes: Axes, shape: Timeline, middles: Sequence[float]) -> None:
    axes.set_xlim(0, 1)
    wanted = min(TICKS - 2, len(middles))
    aims = [(index + 0.5) / wanted for index in range(wanted)]
    chosen = sorted({min(range(len(middles)), key=lambda at: abs(middles[at] - aim)) for aim in aims})
    apart = [at for place, at in enumerate(chosen) if not place or middles[at] - middles[chosen[place - 1]] > 0.2]
    axes.set_xticks([middles[at] for at in apart], [_named(shape, shape.starts[at]) for at in apart])


def _named(shape: Timeline, start: datetime) -> str:
    text = start.isoformat(" ")
    if shape.seconds >= DAY:
        return text[:4] if shape.seconds >= YEAR else text[:7] if shape.seconds >= MONTH else text[:10]
    if shape.starts[0].date() == shape.starts[-1].date():
        return text[11:19] if shape.seconds < 60 else text[11:16]
    return text[5:16]
