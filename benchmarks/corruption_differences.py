"""How far our corruptions and imagecorruptions' lie apart on photographs of 224 pixels, with ImageNet-C's constants.

Results are compared before they are cut to whole grey levels. Where nothing is drawn: mean and largest difference of an
entry, and the share of entries that differ once both sides are rounded to whole levels. Where something is: what the
corrupted image minus the clean one has for a mean, for a standard deviation (both in grey levels) and for a slope (of
its power against frequency, both logarithmic, over rings of equal frequency). Each is averaged over the images; the
differences of the two sides' averages are averaged over the severities as absolute numbers, and so are those between
two runs of the peer: what is not well above them is chance. Two departures of imagecorruptions from the original are
undone (see `corruption_peer.load`); its elastic_transform, which lacks the original's affine map and has other
constants, is another function.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.corruption_peer import Peer
from pipeline import registry
from pipeline.suites import SUITES

NAMES = (*SUITES["c"], *SUITES["c_extra"])
DRAWS = {  # draws an image at each severity: the peer's glass_blur takes half a second
    "gaussian_noise": 1,
    "shot_noise": 1,
    "impulse_noise": 1,
    "speckle_noise": 1,
    "glass_blur": 1,
    "motion_blur": 4,
    "elastic_transform": 1,
    "snow": 4,
    "frost": 12,
    "fog": 12,
    "spatter": 4,
}
SEVERITIES = (1, 2, 3, 4, 5)
IMAGES, SIZE = 16, 224


def photographs(count: int, size: int) -> NDArray[np.uint8]:
    """Square pieces of scikit-learn's two photographs, of 224 to 427 pixels a side, shrunk: (count, size, size, 3)."""
    generator = np.random.default_rng(0)
    sources = load_sample_images().images
    pieces = []
    for number in range(count):
        source = sources[number % len(sources)]
        side = int(generator.integers(224, min(source.shape[:2]) + 1))
        top, left = (int(generator.integers(0, length - side + 1)) for length in source.shape[:2])
        piece = Image.fromarray(source[top : top + side, left : left + side])
        pieces.append(np.asarray(piece.resize((size, size), Image.Resampling.LANCZOS)))
    return np.stack(pieces)


def compare(peer: Peer, names: Sequence[str]) -> None:
    """Print both tables."""
    pictures = photographs(IMAGES, SIZE)
    print(f"{IMAGES} images of {SIZE} x {SIZE} pixels, severities 1-5; grey levels of 255\n")
    print("| corruption | mean difference | largest | entries that differ, rounded |")
    print("|---|---:|---:|---:|")
    for name in (name for name in names if name not in DRAWS):
        pairs = [(theirs(peer, pictures, name, severity), ours(pictures, name, severity)) for severity in SEVERITIES]
        gaps = [np.abs(one - other) for one, other in pairs]
        moved = np.mean([np.rint(one) != np.rint(other) for one, other in pairs])
        print(f"| `{name}` | {np.mean(gaps):.2g} | {np.max(gaps):.2g} | {100 * moved:.2g} % |", flush=True)
    print("\n| corruption | mean of the change: peer | ours | deviation: peer | ours | slope: peer | ours |", end="")
    print(" peer to ours: mean, deviation, slope | peer to itself |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in (name for name in names if name in DRAWS):
        many = np.tile(pictures, (DRAWS[name], 1, 1, 1))
        first, again = (
            np.array([moments(theirs(peer, many, name, severity) - many) for severity in SEVERITIES]) for _ in range(2)
        )  # (severities, 3)
        own = np.array([moments(ours(many, name, severity) - many) for severity in SEVERITIES])
        values = np.stack((first, own), axis=-1).mean(axis=0).ravel()
        gaps = (", ".join(f"{gap:.2g}" for gap in np.abs(first - other).mean(axis=0)) for other in (own, again))
        print(f"| {' | '.join((f'`{name}`', *(f'{value:.3g}' for value in values), *gaps))} |", flush=True)


def ours(pictures: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.float64]:
    """(n, h, w, 3), grey levels."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    seeds = torch.arange(len(images)) + 1000 * severity
    made = registry.load("corruption", name)(images=images, seeds=seeds, severity=severity, constants="imagenet")
    return made.permute(0, 2, 3, 1).double().numpy() * 255


def theirs(peer: Peer, pictures: NDArray[np.uint8], name: str, severity: int) -> NDArray[np.float64]:
    """(n, h, w, 3), grey levels."""
    return np.stack([peer.exact(picture, severity, name) for picture in pictures])


def moments(change: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, standard deviation and spectral slope of (n, h, w, 3), averages over the images."""
    height, width = change.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width).round().astype(int)
    rings = np.arange(1, min(height, width) // 2)
    sizes = np.bincount(frequency.ravel())[rings]
    slopes = []
    for one in change:
        power = (np.abs(np.fft.fft2(one, axes=(0, 1))) ** 2).mean(axis=2)
        inside = np.bincount(frequency.ravel(), weights=power.ravel())[rings] / sizes
        slopes.append(np.polyfit(np.log(rings), np.log(inside + 1e-12), 1)[0])
    return float(change.mean()), float(change.std(axis=(1, 2, 3)).mean()), float(np.mean(slopes))
