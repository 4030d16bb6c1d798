"""Names beside the points of a scatter plot, placed so that they cover neither each other nor other points."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

SIZE = 7.0  # of the letters, in points
LETTER, LINE = 0.56 * SIZE, 1.25 * SIZE  # width and height of a letter with its surroundings, in points
RADIUS = 4.0  # of the markers, in points
DISTANCES = (5.0, 12.0, 20.0, 30.0, 42.0)  # of a label from its point; from the second on a line joins them
ANGLES = (0, 180, 90, 270, 30, 150, 210, 330)

Box = tuple[float, float, float, float]  # left, bottom, right, top


def place(points: Sequence[tuple[float, float]], names: Sequence[str], width: float, height: float) -> list[Box | None]:
    """Boxes of the labels, each the first that is free, near ones first; None where there is none.

    Args:
        points: (k, 2), in points from the lower left corner of the axes.
        names: of the points.
        width: of the axes, in points.
        height: likewise.
    """
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    found: list[Box | None] = []
    for (x, y), name in zip(points, names, strict=True):
        length = LETTER * len(name)
        boxes = [_beside(x, y, length, distance, angle) for distance in DISTANCES for angle in ANGLES]
        free = (box for box in boxes if _inside(box, width, height) and not any(_meet(box, other) for other in taken))
        found.append(next(free, None))
        taken += [box for box in found[-1:] if box is not None]
    return found


def label(axis: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], width: float, height: float) -> None:
    """Write names beside points, of an axis whose limits are final.

    Args:
        axis: to write on.
        points: (k, 2), in data coordinates.
        names: of the points; one that finds no room is left out.
        width: of the axes in inches, about.
        height: likewise.
    """
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    sizes = 72 * width, 72 * height
    scaled = [(sizes[0] * (x - left) / (right - left), sizes[1] * (y - bottom) / (top - bottom)) for x, y in points]
    for point, at, name, box in zip(points, scaled, names, place(scaled, names, *sizes), strict=True):
        if box is None:
            continue
        offset = (box[0] + box[2]) / 2 - at[0], (box[1] + box[3]) / 2 - at[1]
        far = _gap(at, box) > DISTANCES[0] + 1
        line = {"arrowstyle": "-", "color": "#666666", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3} if far else None
        text = axis.annotate(
            name, point, offset, textcoords="offset points", ha="center", va="center", fontsize=SIZE, arrowprops=line
        )
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])  # legible over intervals


def _beside(x: float, y: float, length: float, distance: float, angle: float) -> Box:
    """A label's box whose nearest edge lies at a distance from a point, in a direction."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    centre = x + across * distance + round(across) * length / 2, y + up * distance + round(up) * LINE / 2
    return centre[0] - length / 2, centre[1] - LINE / 2, centre[0] + length / 2, centre[1] + LINE / 2


def _inside(box: Box, width: float, height: float) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _gap(point: tuple[float, float], box: Box) -> float:
    return math.hypot(max(box[0] - point[0], 0, point[0] - box[2]), max(box[1] - point[1], 0, point[1] - box[3]))
