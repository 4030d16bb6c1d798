"""C-bar's original warps, patterns and occlusions, one image (h, w, c) at a time, in numpy and scipy.

Each function takes the draws that the corruption of its name takes, the raw severity of the authors' tables, and the
length in pixels that theirs calls the size of the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage

GREY = 128 / 255
# The raw severities of the authors' tables: a list for 32 pixels, one for 224.
LEVELS = {
    "checkerboard_cutout": ((1.0, 2.0, 3.0, 4.0, 5.0), (2.0, 3.0, 4.0, 5.0, 6.0)),
    "sparkles": ((0.7, 3.5, 5.6, 6.3, 7.0), (1.0, 2.0, 3.0, 5.0, 6.0)),
    "inverse_sparkles": ((1.0, 1.5, 2.5, 4.5, 5.0), (1.0, 2.0, 4.0, 9.0, 10.0)),
    "caustic_refraction": ((1.4, 1.8, 2.6, 3.4, 4.6), (2.35, 3.2, 4.9, 6.6, 9.15)),
    "pinch_and_twirl": (  # with the number of cells per axis
        ((5.5, 3), (6.0, 3), (6.5, 3), (8.5, 3), (10.0, 3)),
        ((4.15, 5), (4.8, 5), (5.45, 5), (8.05, 5), (10.0, 5)),
    ),
    "ripple": ((5.5, 6.0, 6.5, 7.5, 8.0), (3.25, 4.0, 4.75, 6.25, 7.0)),
    "circular_motion_blur": ((2.8, 3.6, 4.4, 5.2, 6.0), (2.35, 3.2, 4.05, 4.9, 5.75)),
    "lines": ((0.5, 1.0, 1.5, 2.0, 2.5), (0.8, 1.6, 2.4, 3.2, 4.0)),
    "transverse_chromatic_aberration": ((1.0, 2.0, 5.0, 9.0, 10.0), (1.0, 2.0, 5.0, 9.0, 10.0)),
}


def checkerboard_cutout(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    height, width, _ = image.shape
    angle, length = _uniform(generator, 2)
    angle, cell = 2 * np.pi * angle, max(side * (0.1 + 0.15 * length), 1)
    reach = math.ceil(math.hypot(height, width) / max(0.1 * side, 1))
    grid = _uniform(generator, 2 * reach, 2 * reach) < level / 10
    out = image.copy()
    for y, x in itertools.product(range(height), range(width)):
        i = math.floor((np.cos(angle) * y + np.sin(angle) * x) / cell)
        j = math.floor((np.cos(angle) * x - np.sin(angle) * y) / cell)
        if i % 2 == j % 2 and grid[i + reach, j + reach]:
            out[y, x] = GREY
    return out


def sparkles(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    stars = [_draw_star(generator) for _ in range(5)]
    for centre, normal in stars:
        radius = 0.01 * level * side
        lengths = [max(min(1, side / 32), radius + 0.25 * radius * draw) for draw in normal]
        image = _lit(image, centre * image.shape[:2], lengths, 1.0, lambda value, f: value + f * (1 - value))
    return image


def inverse_sparkles(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    centre, normal = _draw_star(generator)
    radius = 0.25 * side
    lengths = [radius + 0.25 * radius * draw for draw in normal]
    place = (0.25 + 0.5 * centre) * image.shape[:2]
    return _lit(image, place, lengths, 6.5 * level / 50, lambda value, f: 1 + f * (value - 1))


def caustic_refraction(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    time, size = torch.rand(2, generator=generator).double().tolist()
    time, size = 0.5 + 1.5 * time, (0.75 + 0.5 * size) * side
    height, width, _ = image.shape
    water = np.array([[_caustic(np.array([y, x]), time, size) for x in range(width)] for y in range(height)])
    water = np.pad(ndimage.gaussian_filter(water, 1), 1)
    out = np.empty_like(image)
    for y, x in itertools.product(range(height), range(width)):
        slope = np.array([water[y + 2, x + 1] - water[y, x + 1], water[y + 1, x + 2] - water[y + 1, x]])
        normal = np.array([*slope, 1]) / np.linalg.norm([*slope, 1])
        shift = np.zeros(2)
        if normal[2] < 1 - 1e-3:
            bent = np.arcsin(np.sin(np.arccos(normal[2])) / 4)
            spectator = np.cross([0, 0, 1], normal)
            across = np.cross(normal, spectator / np.linalg.norm(spectator))
            shift = (np.cos(bent) * normal + np.sin(bent) * across)[:2] * 0.05 * level * side
        light = 0.2 * level * (slope[0] - slope[1])
        out[y, x] = read(image, np.array([y]) + shift[0], np.array([x]) + shift[1], "grid-constant")[0] + light
    return out


def pinch_and_twirl(
    image: np.ndarray, generator: torch.Generator, setting: tuple[float, int], side: float
) -> np.ndarray:
    level, count = setting
    cell = max(4, min(image.shape[:2]) // count)
    down, across = (size // cell for size in image.shape[:2])
    ways = np.where(torch.rand(down, across, generator=generator).numpy() < 0.5, 1, -1)
    out = image.copy()
    for j, i in itertools.product(range(across), range(down)):  # one after the other, each on the last one's result
        rows, columns = np.mgrid[i * cell : (i + 1) * cell, j * cell : (j + 1) * cell].astype(float)
        centre = (i + 0.5) * cell, (j + 0.5) * cell
        dy, dx = rows - centre[0], columns - centre[1]
        distance = np.hypot(dy, dx) / (cell / 2)
        moves = (distance <= 1) & (distance > 0)
        pinch = np.sin(np.pi / 2 * np.where(moves, distance, 1)) ** -(0.04 * level + 0.1)
        angle = ways[i, j] * level * np.pi / 20 * (1 - distance) ** 2
        rows = np.where(moves, centre[0] + pinch * (dy * np.cos(angle) - dx * np.sin(angle)), rows)
        columns = np.where(moves, centre[1] + pinch * (dy * np.sin(angle) + dx * np.cos(angle)), columns)
        out[i * cell : (i + 1) * cell, j * cell : (j + 1) * cell] = read(out, rows, columns, "nearest")
    return out


def ripple(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    first, second, phase, other = torch.rand(4, generator=generator).double().tolist()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    amplitude = 0.0025 * level * side
    rows += amplitude * np.sin(2 * np.pi * rows / (side * (0.1 + 0.2 * first)) + 2 * np.pi * phase)
    columns += amplitude * np.sin(2 * np.pi * columns / (side * (0.1 + 0.2 * second)) + 2 * np.pi * other)
    return read(image, rows, columns, "grid-constant")


def circular_motion_blur(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    shares = np.linspace(-1, 1, 21)
    turned = [np.exp(-2 * share**2) * ndimage.rotate(image, 1.5 * level * share, reshape=False) for share in shares]
    return np.sum(turned, axis=0) / np.exp(-2 * shares**2).sum()


def lines(image: np.ndarray, generator: torch.Generator, level: float, side: float) -> np.ndarray:
    main, variation = _uniform(generator, 2)
    count = max(1, int(level / 10 * side))
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    out = image.copy()
    for row, column, turn in _uniform(generator, 3, count).T:
        angle = 2 * np.pi * (main + (0.1 + 0.9 * variation) * (turn - 0.5))
        along = side * np.array([np.cos(angle), np.sin(angle)])
        point = np.array([row, column]) * image.shape[:2]
        start, end = np.trunc(point - along), np.trunc(point + along)
        normal = np.array([-(end - start)[1], (end - start)[0]]) / np.linalg.norm(end - start)
        cover = (1 - np.abs((rows - start[0]) * normal[0] + (columns - start[1]) * normal[1])).clip(0)
        for axis, place in enumerate((rows, columns)):
            cover *= (place >= min(start[axis], end[axis])) & (place <= max(start[axis], end[axis]))
        out = (1 - cover[..., None]) * out + cover[..., None] * GREY
    return out


def transverse_chromatic_aberration(
    image: np.ndarray, generator: torch.Generator, level: float, side: float
) -> np.ndarray:
    order = torch.randperm(3, generator=generator).tolist()
    out = np.empty_like(image)
    for colour, rank in enumerate(order):
        zoomed = ndimage.zoom(image[..., colour], (1, 1 + level / 40, 1 + level / 20)[rank], prefilter=False)
        top, left = ((zoomed.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1))
        out[..., colour] = zoomed[top : top + image.shape[0], left : left + image.shape[1]]
    return out


def _uniform(generator: torch.Generator, *shape: int) -> np.ndarray:
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()


def _draw_star(generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    centre = _uniform(generator, 2)
    rays = int(torch.randint(50, 200, (1,), generator=generator))
    return centre, torch.randn(199, generator=generator, dtype=torch.float64).numpy()[:rays]


def _lit(
    image: np.ndarray,
    centre: np.ndarray,
    lengths: list[float],
    power: float,
    mix: Callable[[np.ndarray, float], np.ndarray],
) -> np.ndarray:
    out, rays = np.empty_like(image), len(lengths)
    for y, x in itertools.product(range(image.shape[0]), range(image.shape[1])):
        dy, dx = np.array([y, x]) - centre
        turn = (np.arctan2(dx, dy) + np.pi) / (2 * np.pi) * rays
        ray = int(turn)
        share = turn - ray
        length = (1 - share) * lengths[ray % rays] + share * lengths[(ray + 1) % rays]
        glow = (length**2 / (dx**2 + dy**2 + 1e-4)) ** power
        out[y, x] = mix(image[y, x], np.clip((1 - (share - 0.5) ** 2) * glow, 0, 1))
    return out


def _caustic(point: np.ndarray, time: float, size: float) -> float:
    angle = (point / size % 1) * 2 * np.pi - 250
    moved, gathered = angle.copy(), 1.0
    for step in range(5):
        t = time * (1 - 3.5 / (step + 1))
        i, j = moved
        moved = angle + np.array([np.cos(t - i) + np.sin(t + j), np.sin(t - j) + np.cos(t + i)])
        crest, trough = np.sin(moved[0] + t) / 0.005, np.cos(moved[1] + t) / 0.005
        gathered += 1 / np.hypot(angle[0] / crest, angle[1] / trough)
    return float(np.clip(np.abs(1.17 - (gathered / 5) ** 1.4) ** 8, 0, 1))


def read(image: np.ndarray, rows: np.ndarray, columns: np.ndarray, mode: str) -> np.ndarray:
    read = [ndimage.map_coordinates(plane, (rows, columns), order=1, mode=mode) for plane in np.moveaxis(image, -1, 0)]
    return np.stack(read, -1)
