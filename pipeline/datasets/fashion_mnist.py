"""Fashion-MNIST: articles of clothing."""

from __future__ import annotations

from pipeline.datasets._torchvision import mnist_like
from pipeline.datasets.samples import Samples


def fashion_mnist(*, root: str = "downloads", download: bool = True) -> Samples:
    """Fashion-MNIST: 70,000 greyscale articles of clothing of 28 x 28 pixels, 10 classes; 60,000 train, 10,000 test.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", arXiv 2017; read by torchvision. Checksums are published for the packed files alone: unpacked ones
    pass for whole if they have the length that their headers state.

    Args:
        root: folder in which `FashionMNIST/raw/` lies or is downloaded to.
        download: download what is missing or damaged; off: no network, packed files put there by hand are unpacked.

    Returns:
        Samples of (n, 1, 28, 28) uint8 whose ids are `fashion_mnist/train/00000` and so on, in the files' order.

    Raises:
        UserError: files are missing or damaged and cannot be downloaded; the message says what to put where.
    """
    from torchvision.datasets import FashionMNIST

    return mnist_like("fashion_mnist", FashionMNIST, root, download)
