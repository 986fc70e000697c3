"""A roofline picture as SVG or PNG. matplotlib is imported when one is drawn; the same figures give the same bytes."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from berth.cli.rooflines import Picture, Point, Roof

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "spread"]

# Okabe and Ito's palette, without the yellow that white swallows, and a brown: as many as a picture draws unasked.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D4F")
STYLES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
GREY = "#555555"
SIZE = (13.0, 7.6)
LABELS = 14
"""More points than this are told by the legend alone."""
GAP = 0.036
"""Of the axis' height between two labels."""
APART = 0.013
"""Of the axis' width between two points of one intensity."""


def draw(picture: Picture, form: str) -> bytes:
    """`form`: "svg" or "png". Raises ImportError where matplotlib is missing."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # No user's settings, and a fixed salt instead of a random one, so that the bytes are the same.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "berth", "svg.fonttype": "none", "font.size": 11})
        figure = Figure(figsize=SIZE, dpi=120)
        canvas = FigureCanvasSVG(figure) if form == "svg" else FigureCanvasAgg(figure)
        axes = figure.add_axes((0.065, 0.135, 0.605, 0.72))
        _compose(axes, picture)
        _words(figure, picture)
        out = io.BytesIO()
        metadata = {"Date": None, "Creator": "berth"} if form == "svg" else {"Software": "berth"}
        figure.savefig(out, format=form, metadata=metadata)
        del canvas
        return out.getvalue()


def _compose(axes: "Axes", picture: Picture) -> None:
    left, right, bottom, top = _limits(picture)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    axes.set_xlabel("arithmetic intensity, FLOP per byte of memory traffic")
    axes.set_ylabel("attainable performance of one device, TFLOP/s")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.7)
    axes.grid(visible=True, which="minor", color="#f1f1f1", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    points = {point.accelerator: point for point in picture.points}
    colours = {}
    handles = []
    width = max([len(_name(roof)) for roof in picture.roofs], default=0)
    for number, roof in enumerate(picture.roofs):
        colour = COLOURS[number % len(COLOURS)]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        colours[roof.name] = colour
        line = axes.plot(
            [left, roof.ridge, right] if roof.ridge > left else [left, right],
            [roof.at(left), roof.peak, roof.peak] if roof.ridge > left else [roof.peak, roof.peak],
            color=colour, linestyle=style, linewidth=1.7, label=_legend(roof, points.get(roof.name), width), zorder=2,
        )[0]  # fmt: skip
        line.set_gid(f"roof-{roof.name}")
        handles.append(line)
    axes.axvline(picture.intensity, color=GREY, linewidth=0.9, linestyle=(0, (2, 3)), zorder=1)
    _points(axes, picture, colours)
    size = 8.6 if len(handles) <= 26 else 7.0
    title = f"{'':<{width}} {'TFLOP/s':>7} {'TB/s':>7} {'attained':>8}  "
    legend = axes.legend(
        handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.01, 1.012),
        frameon=False, prop={"family": "DejaVu Sans Mono", "size": size}, borderaxespad=0, handlelength=3.2,
        labelspacing=0.45, alignment="right",
        title_fontproperties={"family": "DejaVu Sans Mono", "size": size},
    )  # fmt: skip
    legend.get_title().set_color(GREY)


def _points(axes: "Axes", picture: Picture, colours: dict[str, str]) -> None:
    labelled = len(picture.points) <= LABELS
    # Side by side, each with its bar: one behind the other they could not be told apart.
    left, right = axes.get_xlim()
    middle = (len(picture.points) - 1) / 2 if labelled else 0.0
    places = []
    for number, point in enumerate(picture.points):
        colour = colours[point.accelerator]
        x = picture.intensity * (right / left) ** (APART * (number - middle)) if labelled else picture.intensity
        places.append(x)
        if point.low is not None and point.high is not None and labelled:
            axes.plot([x, x], [point.low, point.high], color=colour, linewidth=2.2, alpha=0.75, zorder=3)
        axes.plot(
            [x], [point.tflops], marker="o" if point.measured else "D", markersize=6.5,
            markerfacecolor=colour if point.measured else "white", markeredgecolor=colour, markeredgewidth=1.6,
            linestyle="none", zorder=4,
        )  # fmt: skip
    if labelled and places:
        _labels(axes, places, picture.points, colours)


def _labels(axes: "Axes", xs: Sequence[float], points: Sequence[Point], colours: dict[str, str]) -> None:
    """Beside the points, pushed apart, each with a leader to its point."""
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [tuple(to_axes.transform((x, point.tflops))) for x, point in zip(xs, points, strict=True)]
    # On the side with more room.
    side = 1 if places[0][0] + places[-1][0] < 1.0 else -1
    beside = (max if side > 0 else min)(x for x, _ in places) + side * 0.045
    heights = spread([y for _, y in places], GAP, 0.02, 0.98)
    for point, (x, y), height in zip(points, places, heights, strict=True):
        text = f"{point.accelerator} {point.tflops:.3g}"
        axes.annotate(
            text, xy=(x, y), xytext=(beside, height), xycoords="axes fraction", textcoords="axes fraction",
            color=colours[point.accelerator], fontsize=9, va="center", ha="left" if side > 0 else "right", zorder=5,
            arrowprops={"arrowstyle": "-", "color": colours[point.accelerator], "linewidth": 0.7, "shrinkB": 5},
            bbox={"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.92},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights moved as little as needed: neighbours stand `gap` apart, from `low` to `high` while they fit."""
    order = sorted(range(len(heights)), key=lambda index: (heights[index], index))
    groups: list[list[float]] = []
    for index in order:
        # A group stands as one block around the mean of what its members want.
        groups.append([heights[index], 1.0])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap) + 1e-12:
            mean, count = groups.pop()
            other, more = groups[-1]
            groups[-1] = [(mean * count + other * more) / (count + more), count + more]
    placed: list[float] = []
    for mean, count in groups:
        first = mean - gap * (count - 1) / 2
        placed.extend(first + gap * number for number in range(int(count)))
    # Pushed back inside, from below and then from above.
    for number in range(len(placed)):
        placed[number] = max(placed[number], low + gap * number)
    for number in range(len(placed)):
        from_top = len(placed) - 1 - number
        placed[from_top] = min(placed[from_top], high - gap * number)
    found = [0.0] * len(heights)
    for index, height in zip(order, placed, strict=True):
        found[index] = height
    return found


def _top(group: Sequence[float], gap: float) -> float:
    return group[0] + gap * (group[1] - 1) / 2


def _bottom(group: Sequence[float], gap: float) -> float:
    return group[0] - gap * (group[1] - 1) / 2


def _legend(roof: Roof, point: Point | None, width: int) -> str:
    """In columns of one width: the font is monospaced."""
    attained = "" if point is None else f"{point.tflops:8.3g} {'●' if point.measured else '◇'}"
    name = _name(roof)
    return f"{name:<{width}} {roof.peak:7.4g} {roof.bandwidth / 1e12:7.3g} {attained:<10}"


def _name(roof: Roof) -> str:
    return f"{roof.name}*" if roof.measured else roof.name


def _limits(picture: Picture) -> tuple[float, float, float, float]:
    ridges = [roof.ridge for roof in picture.roofs]
    left = min([picture.intensity / 4, *(ridge / 12 for ridge in ridges)])
    right = max([picture.intensity * 6, *(ridge * 5 for ridge in ridges)])
    # An outlier's ridge must not press all others together.
    left = max(left, min(picture.intensity / 30, sorted(ridges)[len(ridges) // 2] / 30) if ridges else left)
    low = [end for point in picture.points for end in (point.low, point.tflops) if end is not None]
    bottom = min([*(roof.at(left) for roof in picture.roofs), *low]) / 1.6
    top = max([roof.peak for roof in picture.roofs] + [point.tflops for point in picture.points]) * 2.2
    return left, right, bottom, top


def _words(figure: Any, picture: Picture) -> None:
    figure.text(
        0.065, 0.952, f"{picture.workload} on {len(picture.roofs)} accelerators: {picture.intensity:.3g} FLOP/byte",
        fontsize=15, fontweight="bold",
    )  # fmt: skip
    facts = [f"dense peak at {picture.precision or 'fp16'} and memory bandwidth of data sheets"]
    if any(roof.measured for roof in picture.roofs):
        facts.append("* measured there")
    # A line each: side by side they ran into one another.
    figure.text(0.065, 0.919, "; ".join(facts), fontsize=10, color=GREY)
    labelled = len(picture.points) <= LABELS
    marks = []
    if any(not point.measured for point in picture.points):
        marks.append("◇ predicted")
    if any(point.measured for point in picture.points):
        marks.append("● measured")
    if labelled and any(point.low is not None for point in picture.points):
        marks.append("a bar is the 90 % interval")
    if labelled and len(picture.points) > 1:
        marks.append("drawn side by side, all at the dotted line")
    figure.text(0.065, 0.89, "; ".join(marks), fontsize=10, color=GREY)
    said = [picture.remark, *(f"{roof.name}: {roof.remark}" for roof in picture.roofs if roof.remark)]
    if picture.undrawn:
        said.append(f"{picture.undrawn} more accelerators are not drawn: --accelerator picks.")
    if picture.left_out:
        said.append(f"No peak at this precision or no bandwidth known: {', '.join(picture.left_out)}.")
    beside = [line for one in said if one for line in textwrap.wrap(one, 68)]
    figure.text(0.68, 0.135, "\n".join(beside), fontsize=8, color=GREY, va="bottom")
    if picture.sources:
        lines = textwrap.wrap(f"Data sheets: {', '.join(picture.sources)}.", 190)
        figure.text(0.065, 0.012, "\n".join(lines[:3]), fontsize=7, color=GREY, va="bottom")
