"""MNIST: handwritten digits."""

from __future__ import annotations

from pipeline.datasets._torchvision import mnist_like
from pipeline.datasets.samples import Samples


def mnist(*, root: str = "downloads", download: bool = True) -> Samples:
    """MNIST: 70,000 greyscale handwritten digits of 28 x 28 pixels, 10 classes; 60,000 train, 10,000 test.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings
    of the IEEE 1998; read by torchvision. Checksums are published for the packed files alone: unpacked ones pass for
    whole if they have the length that their headers state.

    Args:
        root: folder in which `MNIST/raw/` lies or is downloaded to.
        download: download what is missing or damaged; off: no network, packed files put there by hand are unpacked.

    Returns:
        Samples of (n, 1, 28, 28) uint8 whose ids are `mnist/train/00000` and so on, in the files' order.

    Raises:
        UserError: files are missing or damaged and cannot be downloaded; the message says what to put where.
    """
    from torchvision.datasets import MNIST

    return mnist_like("mnist", MNIST, root, download)
