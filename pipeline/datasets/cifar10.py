"""CIFAR-10: small photographs of ten kinds of objects."""

from __future__ import annotations

from pipeline.datasets._torchvision import cifar_like
from pipeline.datasets.samples import Samples


def cifar10(*, root: str = "downloads", download: bool = True) -> Samples:
    """CIFAR-10: 60,000 colour photographs of 32 x 32 pixels, 10 classes; 50,000 train, 10,000 test.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images", technical report, University of
    Toronto 2009; read by torchvision.

    Args:
        root: folder in which `cifar-10-batches-py/` lies or is downloaded to.
        download: download what is missing or damaged; off: no network, an archive put there by hand is unpacked.

    Returns:
        Samples of (n, 3, 32, 32) uint8 whose ids are `cifar10/train/00000` and so on, in the files' order.

    Raises:
        UserError: files are missing or damaged and cannot be downloaded; the message says what to put where.
    """
    from torchvision.datasets import CIFAR10

    return cifar_like("cifar10", CIFAR10, root, download)
