"""Published data sets that torchvision knows: get them on disk, whole, and hand them over as samples.

Addresses, mirrors, file names and checksums are read from torchvision's classes when a source runs.
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import UserError
from pipeline.datasets.samples import Samples

TIMEOUT = 60  # seconds without an answer; torchvision itself would wait for ever


class Archive(NamedTuple):
    """One file as it is published, and what it unpacks to.

    Attributes:
        path: where the file lies or is downloaded to.
        urls: where it is published, mirrors included.
        md5: its checksum.
        files: unpacked files, beside it or below, and their checksums; None where only that of the packed file is
            known. An archive that is read as it is stands here itself.
    """

    path: Path
    urls: Sequence[str]
    md5: str
    files: Mapping[Path, str | None]


def mnist_like(name: str, kind: Any, root: str, download: bool) -> Samples:
    """MNIST or a set in its format; `kind` is torchvision's class."""
    raw = Path(root).expanduser() / kind.__name__ / "raw"
    archives = [
        Archive(raw / file, [mirror + file for mirror in kind.mirrors], md5, {raw / file.removesuffix(".gz"): None})
        for file, md5 in kind.resources
    ]
    obtain(name, archives, download)
    parts = {}
    for split in ("train", "test"):
        data = kind(Path(root).expanduser(), train=split == "train")
        parts[split] = (data.data.numpy()[:, None], data.targets.numpy())
    return gathered(name, parts, kind.classes)


def cifar_like(name: str, kind: Any, root: str, download: bool) -> Samples:
    """CIFAR-10 or CIFAR-100; `kind` is torchvision's class."""
    base = Path(root).expanduser()
    listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    files = {base / kind.base_folder / file: md5 for file, md5 in listed}
    obtain(name, [Archive(base / kind.filename, [kind.url], kind.tgz_md5, files)], download)
    parts = {}
    for split in ("train", "test"):
        data = kind(base, train=split == "train")
        parts[split] = (data.data.transpose(0, 3, 1, 2), np.array(data.targets))
    return gathered(name, parts, data.classes)


def gathered(name: str, parts: Mapping[str, tuple[NDArray[np.uint8], NDArray[Any]]], classes: Sequence[str]) -> Samples:
    """Samples of a set that is in memory.

    Args:
        name: first part of the ids.
        parts: images (n, c, h, w) and labels (n,) by name; `test` is the test split, all others are for training.
        classes: names of the classes.
    """
    for part, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise UserError(
                f"{name}: the {part} part has {len(images)} images but {len(labels)} labels; remove its files"
            )
    pixels = [images for images, _ in parts.values()]
    stops = np.cumsum([len(images) for images in pixels])

    def read(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        # Part by part, for joining the parts would hold them twice.
        taken = np.empty((len(rows), *pixels[0].shape[1:]), np.uint8)
        for stop, images in zip(stops, pixels, strict=True):
            inside = (rows < stop) & (rows >= stop - len(images))
            taken[inside] = images[rows[inside] - (stop - len(images))]
        return taken

    return Samples(
        ids=[f"{name}/{part}/{row:05d}" for part, (images, _) in parts.items() for row in range(len(images))],
        labels=np.concatenate([labels for _, labels in parts.values()]).astype(np.int64),
        classes=list(classes),
        splits=[
            "test" if part == "test" else "train" for part, (images, _) in parts.items() for _ in range(len(images))
        ],
        read=read,
    )


def obtain(name: str, archives: Sequence[Archive], download: bool) -> None:
    """Have every unpacked file on disk, whole: unpack and, if need be, download what is missing or damaged.

    One job at a time does so, behind a lock file beside the archives; another waits and then finds the files. Files
    that are whole need neither lock nor the right to write. What a killed job leaves behind does not pass for whole.

    Args:
        name: the source's, for messages and the lock.
        archives: what the set is published in; all lie in one folder.
        download: whether the network may be used; unpacking an archive that lies there needs no network.

    Raises:
        UserError: a file is missing or damaged and may not or cannot be downloaded, or cannot be written.
    """
    from torchvision.datasets.utils import check_integrity, extract_archive

    folder = archives[0].path.parent
    try:
        needed = [archive for archive in archives if not _unpacked(archive)]
        absent = [archive for archive in needed if not check_integrity(archive.path, archive.md5)]
        if absent and not download:
            raise UserError(
                f"{name}: {_state(absent)} and 'download' is off; set 'download: true', or {_by_hand(absent)}"
            )
        if not needed:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{name}.lock"):
            for index, archive in enumerate(needed):
                if _unpacked(archive):  # by another job, while this one waited
                    continue
                if not check_integrity(archive.path, archive.md5) and (reason := _download(name, archive)):
                    remedy = f"{_by_hand(needed[index:])} and set 'download: false'"
                    raise UserError(f"{name}: cannot download {archive.path.name} ({reason}); {remedy}")
                if archive.path not in archive.files:
                    extract_archive(archive.path, folder)
    except OSError as error:
        raise UserError(
            f"{name}: cannot read or write {error.filename or folder} ({error.strerror or error})"
        ) from None


def _download(name: str, archive: Archive) -> str:
    """Download to the archive's path from the first mirror that gives the right file; why none does, or nothing."""
    from torchvision.datasets.utils import download_url

    reasons = []
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        for url in archive.urls:
            print(f"{name}: downloading {url}", file=sys.stderr)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # a log is no place for a progress bar
                    download_url(url, archive.path.parent, archive.path.name, archive.md5)
                return ""
            except RuntimeError:  # torchvision's word for a wrong checksum
                reasons.append(f"{url}: its checksum is not {archive.md5}")
            except (OSError, HTTPException) as error:
                reasons.append(f"{url}: {' '.join(str(error).split()) or type(error).__name__}")
    finally:
        socket.setdefaulttimeout(before)
    return "; ".join(reasons)


def _unpacked(archive: Archive) -> bool:
    return all(_whole(file, md5) for file, md5 in archive.files.items())


def _whole(file: Path, md5: str | None) -> bool:
    from torchvision.datasets.utils import check_integrity

    return _as_long_as_it_says(file) if md5 is None else bool(check_integrity(file, md5))


def _as_long_as_it_says(file: Path) -> bool:
    """Whether an idx file (MNIST's format) of bytes has the length that its header states.

    torchvision takes any file of the right name, so a half-written one would pass. Header: 0, 0, 8 (unsigned bytes),
    number of axes, and their lengths as big-endian 32-bit integers.
    """
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(4)
        axes = stream.read(4 * head[3]) if head[:3] == b"\0\0\x08" and len(head) == 4 else b""
    if not axes or len(axes) < 4 * head[3]:
        return False
    entries: int = math.prod(struct.unpack(f">{head[3]}I", axes))
    return file.stat().st_size == 4 + len(axes) + entries


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the kernel releases when the process ends, however it ends.

    Where the system or the file system knows no such locks, two jobs may download at once: a waste, and the checksums
    find what they spoil.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with file.open("w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _state(archives: Sequence[Archive]) -> str:
    """What is wrong on disk: the damaged files, or the archives that are missing."""
    checksums = {
        file: md5 for archive in archives for file, md5 in {archive.path: archive.md5, **archive.files}.items()
    }
    damaged = [str(file) for file, md5 in checksums.items() if file.is_file() and not _whole(file, md5)]
    if damaged:
        return f"damaged: {', '.join(damaged)}"
    return f"not found in {archives[0].path.parent}"


def _by_hand(archives: Sequence[Archive]) -> str:
    files = ", ".join(f"{archive.path.name} (from {' or '.join(archive.urls)})" for archive in archives)
    return f"put by hand into {archives[0].path.parent}: {files}"
