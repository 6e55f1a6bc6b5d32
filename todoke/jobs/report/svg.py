"""matplotlib's SVG made fit to stand inside a page: unique ids, colours of the page's theme, a spoken label."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours no chart would choose; each stands for a variable of the page, so that light and dark both work.
SERIES, MUTED, GRID, INK = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
_THEME = {SERIES: "--series", MUTED: "--muted", GRID: "--grid", INK: "--ink-2"}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "todoke",
    # A dollar sign in somebody's data is a dollar sign.
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
}
_SENTINEL = re.compile("|".join(_THEME))
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_LINK = re.compile(r"url\(#([^)]+)\)|^#(.+)$")


@contextmanager
def canvas(width: float, height: float, box: tuple[float, float, float, float]) -> Iterator[tuple[Figure, Axes]]:
    """A figure of `width` by `height` inches; its axes fill `box` (left, bottom, right, top in inches of margin)."""
    left, bottom, right, top = box
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
        yield figure, axes


def to_svg(figure: Figure, key: str, label: str) -> str:
    """One `<svg role="img">` for a page; every id in it starts with `key`. Call it inside `canvas`."""
    buffer = StringIO()
    with warnings.catch_warnings():
        # The text stays text and the reader's fonts draw it; matplotlib's own font only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib just now
    _drop(root, {"metadata", "style"})
    used = {name for node in root.iter() for text in node.attrib.values() for name in _linked(text)}
    for node in root.iter():
        node.tag = _local(node.tag)
        node.attrib = {_local(name): _adapt(_local(name), text, key) for name, text in node.attrib.items()}
        if "id" in node.attrib:
            name = node.attrib.pop("id")
            if name in used:
                node.set("id", f"{key}-{name}")
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _drop(node: ElementTree.Element, tags: set[str]) -> None:
    for child in list(node):
        _drop(child, tags)
        if _local(child.tag) in tags or (_local(child.tag) in {"defs", "g"} and not len(child)):
            node.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _linked(text: str) -> list[str]:
    return [first or second for first, second in _LINK.findall(text)]


def _adapt(name: str, text: str, key: str) -> str:
    if name == "style":
        text = _FONT_FAMILY.sub("", _SENTINEL.sub(lambda found: f"var({_THEME[found[0]]})", text))
    if name in {"style", "clip-path", "href"}:
        text = _LINK.sub(lambda link: f"url(#{key}-{link[1]})" if link[1] else f"#{key}-{link[2]}", text)
    return text
