"""Names beside points with intervals both ways, in the corners between their bars."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

SIZE = 7.5  # of the letters, in points
LETTER, LINE = 0.57 * SIZE, 1.2 * SIZE  # width and height of a letter with its surroundings, in points
RADIUS, THICK = 4.0, 1.5  # of markers and of half a bar, in points
GAPS = ((4.5, 2.5), (8.0, 9.0), (14.0, 18.0), (22.0, 28.0), (32.0, 40.0))  # across and up from the point; then a line

Box = tuple[float, float, float, float]  # left, bottom, right, top


class Cross(NamedTuple):
    """A point and the ends of its bars, in points from the lower left corner of the axes."""

    x: float
    y: float
    left: float
    right: float
    bottom: float
    top: float

    def boxes(self) -> list[Box]:
        """What it covers."""
        return [
            (self.x - RADIUS, self.y - RADIUS, self.x + RADIUS, self.y + RADIUS),
            (self.left, self.y - THICK, self.right, self.y + THICK),
            (self.x - THICK, self.bottom, self.x + THICK, self.top),
        ]


class Label(NamedTuple):
    """A name, and the points of which one is to bear it."""

    name: str
    crosses: Sequence[Cross]


class Placed(NamedTuple):
    """A name, where it stands, and the point that it is at."""

    name: str
    box: Box
    cross: Cross


def place(labels: Sequence[Label], width: float, height: float) -> list[Placed] | None:
    """Each label at the first place where it covers neither points nor bars nor labels, near ones first.

    Args:
        labels: names and points.
        width: of the axes, in points.
        height: likewise.

    Returns:
        All labels; None if there is no room for one of them.
    """
    taken = [box for label in labels for cross in label.crosses for box in cross.boxes()]
    found: list[Placed] = []
    for label in labels:
        length = LETTER * len(label.name)
        for gap, cross, up, across in itertools.product(GAPS, label.crosses, (1, -1), (1, -1)):
            box = _corner(cross, length, across * gap[0], up * gap[1])
            inside = min(box[:2]) >= 0 and box[2] <= width and box[3] <= height
            if inside and not any(_meet(box, other) for other in taken):
                found.append(Placed(label.name, box, cross))
                taken.append(box)
                break
        else:
            return None
    return found


def write(axis: Axes, placed: Sequence[Placed]) -> None:
    """Write the names into their boxes, with a line to the point from those farther away."""
    for name, box, cross in placed:
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        near = box[0] if middle[0] > cross.x else box[2], box[1] if middle[1] > cross.y else box[3]
        places: dict[str, Any] = {"xycoords": "axes points", "textcoords": "axes points"}
        if max(abs(near[0] - cross.x) - GAPS[0][0], abs(near[1] - cross.y) - GAPS[0][1]) > 1:
            line = {"arrowstyle": "-", "color": "#666666", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            axis.annotate("", (cross.x, cross.y), near, **places, arrowprops=line)
        text = axis.annotate(name, (cross.x, cross.y), middle, **places, ha="center", va="center", fontsize=SIZE)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])  # legible over lines


def _corner(cross: Cross, length: float, across: float, up: float) -> Box:
    """A label's box with its nearest corner so far from a point."""
    left = cross.x + across - (length if across < 0 else 0)
    bottom = cross.y + up - (LINE if up < 0 else 0)
    return left, bottom, left + length, bottom + LINE


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
