"""Tiny data in the formats of real sets, where the sources look for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as published

from tests.test_sources import Site, publish_cifar, publish_mnist, publish_svhn


def published_sets(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the archives of 30 images of each published set into `root`, as if they were downloaded.

    Each has ten classes. The address of the site is one at which nothing listens.
    """
    kinds: list[tuple[Any, Any, str]] = [
        (publish_mnist, published.MNIST, "MNIST/raw"),
        (publish_mnist, published.FashionMNIST, "FashionMNIST/raw"),
        (publish_cifar, published.CIFAR10, ""),
        (publish_cifar, published.CIFAR100, ""),
        (publish_svhn, published.SVHN, ""),
    ]
    for publish, kind, place in kinds:
        folder = root / place
        folder.mkdir(parents=True, exist_ok=True)
        publish(Site("http://127.0.0.1:9/", folder, []), patch, kind)


def folder_of_images(root: Path, classes: int, side: int = 40) -> None:
    """JPEG images of noise, six of each class below `train` and three below `val`."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label in range(classes):
            folder = root / split / f"n{label:02d}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (side, side + number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
