"""Speed of PRIME's augmentation against a plain reading of its paper, on one CPU thread.

The plain version computes every primitive on every image and keeps what was drawn, and sums one sine per frequency,
pixel and channel; its filter and its deformation are the package's own. Both follow the same laws.
Run: `python -m benchmarks.prime_augmentation`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.transforms.colour import random_coefficients
from pipeline.transforms.prime import mixing_weights, prime
from pipeline.transforms.spatial import spatial
from pipeline.transforms.spectral import spectral

SHAPES = ((128, 1, 8, 8), (128, 3, 32, 32), (8, 3, 224, 224))
FREQUENCIES, VARIANCE = 100, 0.01
ROUNDS = 5


def plain_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    coefficients = random_coefficients(
        *images.shape[:2], generator=generator, frequencies=FREQUENCIES, t_max=VARIANCE, bandwidth=None
    )
    shifted = images.clone()
    for k in range(1, FREQUENCIES + 1):
        shifted += coefficients[..., k - 1, None, None] * torch.sin(math.pi * k * images)
    return shifted.clamp(0, 1)


def plain_prime(images: Tensor, generator: torch.Generator, width: int = 3, depth: int = 3) -> Tensor:
    weights = mixing_weights(len(images), width, "dirichlet", generator=generator)
    mixed = weights[:, 0, None, None, None] * images
    for chain in range(width):
        x = images
        for _ in range(depth):
            candidates = torch.stack(
                (
                    x,
                    spectral(x, generator=generator),
                    spatial(x, generator=generator),
                    plain_colour(x, generator),
                )
            )
            drawn = torch.randint(4, (len(images),), generator=generator)
            x = candidates[drawn, torch.arange(len(images))]
        mixed = mixed + weights[:, chain + 1, None, None, None] * x
    return mixed


def images_per_second(augment: Callable[[Tensor, torch.Generator], Tensor], images: Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    augment(images, generator)
    speeds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        augment(images, generator)
        speeds.append(len(images) / (time.perf_counter() - start))
    return speeds


def main() -> None:
    torch.set_num_threads(1)
    print(f"Median of {ROUNDS} batches, images/s, one thread, torch {torch.__version__}\n")
    print("| batch | plain | this package | ratio |\n|---|---:|---:|---:|")
    for shape in SHAPES:
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        plain = statistics.median(images_per_second(plain_prime, images))
        ours = statistics.median(images_per_second(lambda x, g: prime(x, generator=g), images))
        print(f"| {' x '.join(map(str, shape))} | {plain:.1f} | {ours:.1f} | {ours / plain:.1f} |")


if __name__ == "__main__":
    main()
