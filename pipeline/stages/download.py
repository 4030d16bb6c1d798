"""download: the address of a published archive -> its unpacked files."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import store
from pipeline.archives import Part, archive_named
from pipeline.contracts import UserError, canonical

TIMEOUT = 60.0  # seconds without an answer
TRIES = 3  # in a row that bring no byte
PAUSE = 5.0  # seconds between these
BLOCK = 2**20  # bytes read at a time
UNPACKED = 1.25  # bytes on the disk a byte of the archive, at most: many small files fill their last blocks badly
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes that a later try may not meet again
BY_HAND = "try again later, or unpack it by hand and set 'folder'"
PROVENANCE = "provenance.json"


class _BrokenOffError(Exception):
    """A connection that could not be opened, or broke; the text says why."""


def download(*, spec: Mapping[str, Any], code: str, out: Path) -> None:
    """Fetch one part of a published archive of corrupted images and unpack it.

    What has arrived stays beside `out` when the job ends early, and the next one goes on from there. Size and checksum
    are compared with the published ones before anything is unpacked, and the folder appears whole or not at all.

    Args:
        spec: `archive` and `part`, names in the catalogue (`pipeline.archives`).
        code: digest of the code, for the provenance.
        out: folder for the files; it must not exist, or be empty. In it `provenance.json` says where they are from.

    Raises:
        UserError: no such archive or part, one that cannot be downloaded, no network, an HTTP error, a wrong size or
            checksum, an entry of the archive that would lie outside the folder, or no room or no right to write.
    """
    where = f"{spec['archive']}, part {spec['part']}"
    part = _part(spec, where)
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"{where}: given a Python that cannot unpack safely, expected 3.11.4 or newer; renew it")
    partial = out.with_name(f".{out.name}.{part.checksum.rpartition(':')[2][:16]}.partial")
    unpacked = out.with_name(f".{out.name}.unpacking")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: exists already; remove it to download anew")
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)
        _check_room(part, partial, where)
        _fetch(part, partial, where)
        _check(part, partial, where)
        _unpack(partial, unpacked, where)
        meta = store.provenance("download", spec, code, {}) | {"url": part.url, "checksum": part.checksum}
        (unpacked / PROVENANCE).write_text(canonical(meta) + "\n", encoding="utf-8")
        unpacked.replace(out)
        partial.unlink()
    except OSError as error:
        place = error.filename or out.parent
        raise UserError(f"{where}: cannot read or write {place} ({error.strerror or error})") from None
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _part(spec: Mapping[str, Any], where: str) -> Part:
    archive = archive_named(spec["archive"], where)
    if not archive.parts:
        remedy = f"get it from {archive.published}, unpack it and set 'folder'"
        raise UserError(f"{where}: has no published checksum, so it is not downloaded; {remedy}")
    if spec["part"] not in archive.parts:
        raise UserError(f"{where}: no such part; there are {', '.join(archive.parts)}")
    return archive.parts[spec["part"]]


def _check_room(part: Part, partial: Path, where: str) -> None:
    free = shutil.disk_usage(partial.parent).free
    needed = max(0, part.size - _length(partial)) + UNPACKED * part.size
    if needed > free:
        raise UserError(
            f"{where}: needs {_gigabytes(needed)} in {partial.parent}, which has {_gigabytes(free)} left; make room, "
            "or unpack it elsewhere and set 'folder'"
        )


def _fetch(part: Part, partial: Path, where: str) -> None:
    """Add to the partial file until it is whole; a connection that breaks is taken up again."""
    idle, most = 0, _length(partial)
    while (have := _length(partial)) < part.size:
        print(f"{where}: {part.url} from {_gigabytes(have)} of {_gigabytes(part.size)}", file=sys.stderr)
        reason = "the connection ended early"
        try:
            _receive(part, partial, have, where)
        except _BrokenOffError as error:
            reason = str(error)
        # A server that begins anew brings nothing until it is further than before.
        idle = 0 if _length(partial) > most else idle + 1
        most = max(most, _length(partial))
        if idle == TRIES:
            raise UserError(f"{where}: cannot download {part.url} ({reason}); {BY_HAND}")
        if idle:
            time.sleep(PAUSE)


def _receive(part: Part, partial: Path, have: int, where: str) -> None:
    """One connection: what it brings goes behind the bytes at hand, or in their place if the server begins anew.

    Raises:
        _BrokenOffError: it could not be opened, or broke.
        UserError: the server has no such file, or one of another size.
    """
    request = urllib.request.Request(part.url, headers={"User-Agent": "boundary-atlas"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            span = answer.headers.get("Content-Range", "") if answer.status == 206 else ""
            if answer.status == 206 and not span.startswith(f"bytes {have}-"):
                raise _BrokenOffError(f"asked for bytes from {have}, given {span or 'others'}")
            size = span.rpartition("/")[2] or answer.headers.get("Content-Length", "")
            if size.isdigit() and int(size) != part.size:
                raise UserError(f"{where}: {part.url} has {size} bytes, expected {part.size}; {BY_HAND}")
            with partial.open("ab" if span else "wb") as file:
                while file.tell() <= part.size and (block := answer.read(BLOCK)):
                    file.write(block)
    except urllib.error.HTTPError as error:
        text = f"HTTP status {error.code}, {error.reason}"
        if error.code not in PASSING:
            raise UserError(f"{where}: cannot download {part.url} ({text}); {BY_HAND}") from None
        raise _BrokenOffError(text) from None
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        # A full disk is an OSError as well, but none of these.
        raise _BrokenOffError(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _check(part: Part, partial: Path, where: str) -> None:
    """Remove a file that is not the published one."""
    algorithm, _, expected = part.checksum.partition(":")
    with partial.open("rb") as file:
        given = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if (size := _length(partial)) != part.size or given != expected:
        partial.unlink()
        raise UserError(
            f"{where}: {part.url} gave {size} bytes, {algorithm} {given}; expected {part.size} bytes, {algorithm} "
            f"{expected}; {BY_HAND}"
        )


def _unpack(archive: Path, folder: Path, where: str) -> None:
    """Unpack a tar file, packed or not, of which no entry may lie or lead outside the folder."""
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if PurePosixPath(member.name).is_absolute():  # the filter would only strip the slash
                    raise tarfile.AbsolutePathError(member)
                tar.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        archive.unlink()
        unsafe = isinstance(error, tarfile.FilterError)
        state = "not safe to unpack" if unsafe else "no readable tar file"
        raise UserError(f"{where}: the archive is {state} ({error}); {BY_HAND}") from None


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
