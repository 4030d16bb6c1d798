"""Small archives in the layouts of the published ones, and a server that hands one out."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.archives import Archive, Member, Part


def corrupted(images: torch.Tensor, severity: int) -> np.ndarray:
    """(n, h, w, c) uint8: darker by 20 levels a severity."""
    return ((images * 255).round() - 20 * severity).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def write_arrays(folder: Path, stem: str, images: torch.Tensor, labels: Sequence[int]) -> Path:
    """`stem`.npy and labels.npy, five blocks by severity, as CIFAR-10-C has them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{stem}.npy", np.concatenate([corrupted(images, severity) for severity in range(1, 6)]))
    np.save(folder / "labels.npy", np.tile(np.array(labels), 5))
    return folder


def write_folders(
    folder: Path, stem: str, images: torch.Tensor, files: Sequence[str], levels: Sequence[str] = "12345"
) -> Path:
    """`stem`/level/class/name.png, as ImageNet-C has them; `files` are class/name.suffix."""
    for severity, level in enumerate(levels, start=1):
        for pixels, file in zip(corrupted(images, severity), files, strict=True):
            path = (folder / stem / level / file).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def pack(entries: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """A tar file of the entries: contents by name, or entries of other kinds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    """A symbolic link."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


def one_part(url: str, content: bytes, checksum: str | None = None, size: int | None = None) -> Archive:
    """A catalogue entry with one corruption, fog, in one part that the address gives."""
    part = Part(url, checksum or f"md5:{hashlib.md5(content).hexdigest()}", len(content) if size is None else size)
    member = Member("fog", "weather", "all")
    return Archive("array_archive", "SMALL", {"fog": member}, {"all": part}, "https://example.org", "nobody")


class Server(ThreadingHTTPServer):
    """Answers with `content`, or a part; the first connections break off after as many bytes as `breaks` says."""

    daemon_threads = True
    content = b""
    ranges = True
    status = 0  # if not 0, the answer to everything
    after = 0  # status from the first break on

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str | None] = []
        self.breaks: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/small.tar"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.breaks:
            rest = rest[: server.breaks.pop(0)]
            server.status = server.after
        self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on this machine."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
