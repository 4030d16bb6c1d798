"""Speed of PRIME's augmentation against a plain reading of its paper, on one CPU thread.

Both follow the same laws, and are timed in turn. The plain version takes so long that it gets a slice of the batch;
its images are independent, so images per second carry over. Parameters: PRIME's for CIFAR up to 32 pixels, for ImageNet
at 224; the largest cut is our default, one less than the side. Run: `python -m benchmarks.prime_augmentation`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.naive_prime import naive_colour, naive_prime, naive_spatial, naive_spectral
from pipeline.transforms.colour import colour
from pipeline.transforms.prime import prime
from pipeline.transforms.spatial import spatial
from pipeline.transforms.spectral import spectral

ROUNDS = 5
IMAGENET: dict[str, Any] = {"frequencies": 500, "t_max": 0.05, "bandwidth": 20}


class Setting(NamedTuple):
    """Images of the batch, and of the slice for the plain version (for one primitive, for the whole); options."""

    shape: tuple[int, int, int, int]
    primitive_slice: int
    prime_slice: int
    colour: dict[str, Any]


SETTINGS = (
    Setting((128, 1, 8, 8), 64, 16, {}),
    Setting((128, 3, 32, 32), 64, 16, {}),
    Setting((128, 3, 224, 224), 8, 4, IMAGENET),
)


def images_per_second(augment: Callable[[Tensor], Tensor], images: Tensor) -> float:
    start = time.perf_counter()
    augment(images)
    return len(images) / (time.perf_counter() - start)


def one_by_one(transform: Callable[..., Tensor], **options: Any) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda images: torch.stack([transform(image, generator, **options) for image in images])


def compared(setting: Setting) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(setting.shape, generator=torch.Generator().manual_seed(1))
    plain = torch.Generator().manual_seed(0)
    rows: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]] = {
        "spectral": (
            one_by_one(naive_spectral),
            lambda x: spectral(images=x, generator=generator),
            setting.primitive_slice,
        ),
        "spatial": (
            one_by_one(naive_spatial),
            lambda x: spatial(images=x, generator=generator),
            setting.primitive_slice,
        ),
        "colour": (
            one_by_one(naive_colour, **setting.colour),
            lambda x: colour(images=x, generator=generator, **setting.colour),
            setting.primitive_slice,
        ),
        "prime": (
            lambda x: naive_prime(x, plain, **setting.colour),
            lambda x: prime(images=x, generator=generator, **setting.colour),
            setting.prime_slice,
        ),
    }
    shape = " x ".join(map(str, setting.shape))
    for name, (theirs, ours, size) in rows.items():
        ours(images)  # fills the tables
        pairs = [(images_per_second(theirs, images[:size]), images_per_second(ours, images)) for _ in range(ROUNDS)]
        slow, fast = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
        ratio = statistics.median(ours / theirs for theirs, ours in pairs)
        print(f"| {shape} | {name} | {size} | {slow:.4g} | {fast:.4g} | {ratio:.0f} |", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    print(f"Medians of {ROUNDS} rounds, images/s, one thread, torch {torch.__version__}\n")
    print("| batch | | images of it for the plain version | plain | this package | median ratio |")
    print("|---|---|---:|---:|---:|---:|")
    for setting in SETTINGS:
        compared(setting)


if __name__ == "__main__":
    main()
