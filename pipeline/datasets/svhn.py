"""SVHN: house numbers in street photographs."""

from __future__ import annotations

from pathlib import Path

from pipeline.datasets._torchvision import Archive, gathered, obtain
from pipeline.datasets.samples import Samples


def svhn(*, root: str = "downloads", download: bool = True, extra: bool = False) -> Samples:
    """SVHN, cropped digits: 99,289 colour images of 32 x 32 pixels, 10 classes; 73,257 train, 26,032 test.

    Source: Netzer, Wang, Coates, Bissacco, Wu and Ng, "Reading digits in natural images with unsupervised feature
    learning", NIPS workshop 2011; read by torchvision. The files call the digit 0 class 10; here it is class 0.

    Args:
        root: folder in which `train_32x32.mat` and `test_32x32.mat` lie or are downloaded to.
        download: download what is missing or damaged; off: no network.
        extra: add the 531,131 easier images of `extra_32x32.mat` to the training split.

    Returns:
        Samples of (n, 3, 32, 32) uint8 whose ids are `svhn/train/00000` and so on, in the files' order.

    Raises:
        UserError: files are missing or damaged and cannot be downloaded; the message says what to put where.
    """
    from torchvision.datasets import SVHN

    base = Path(root).expanduser()
    names = ("train", "extra", "test") if extra else ("train", "test")
    archives = []
    for url, file, md5 in (SVHN.split_list[name] for name in names):
        archives.append(Archive(base / file, [url], md5, {base / file: md5}))
    obtain("svhn", archives, download)
    data = {name: SVHN(base, split=name) for name in names}
    parts = {name: (part.data, part.labels) for name, part in data.items()}
    return gathered("svhn", parts, [str(digit) for digit in range(10)])
