"""Image files that are broken, odd or malicious: one line that names the file, or what the docstrings say."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import store
from pipeline.contracts import UserError
from pipeline.datasets.decoding import FORMATS, decode, open_image
from pipeline.datasets.image_folder import image_folder
from pipeline.specs import complete
from pipeline.stages.prepare import prepare

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F")
LOSSLESS = ("BMP", "PNG", "PPM", "TIFF")
# in scripts of both directions, with marks that combine, markup, quotes, a formula, dots; all of them are file names
NAMES = (
    "<img src=x onerror=alert(1)>",
    "&amp;\"quoted\" 'twice'",
    "שלום",
    "ﺳلام\u202exe",
    "e\u0301\u0323" * 20,
    "$\\frac{a}{b$",
    "..a..",
    "=1+1",
    "x" * 200,
    "🦔",
)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values: Any) -> Image.Image:
    return Image.fromarray(np.asarray(values))


def refused(content: bytes, channels: int = 3, size: int | None = None) -> str:
    """The message with which an image is refused."""
    with pytest.raises(UserError) as error:
        decode([("a/b.png", content)], channels, size)
    message = str(error.value)
    assert message.startswith("a/b.png: ") and message.isprintable()
    return message


@pytest.fixture
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of decompression bombs at 10,000 pixels, where a test of it costs no memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_files_are_named(kind: str) -> None:
    content = encoded(Image.fromarray(NOISE), kind)
    assert decode([("a", content)], 3, None).shape == (1, 3, 40, 40)
    for kept in (12, 60, len(content) // 2):
        assert "not a readable image (" in refused(content[:kept])


def test_empty_and_foreign_files_are_named_without_an_address_in_memory() -> None:
    assert refused(b"") == "a/b.png: not a readable image (it is empty); remove or replace it"
    for content in (b"\0" * 100, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"GIF89a"):
        known = ", ".join(FORMATS)
        assert refused(content) == f"a/b.png: not a readable image (none of {known}); remove or replace it"


def test_no_program_is_started_for_a_file_that_only_looks_like_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pillow hands EPS to the first `gs` on the path; with a file suffix such as .png nobody would expect that.
    program = tmp_path / "gs"
    program.write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    content = encoded(Image.new("RGB", (8, 8)), "EPS")
    assert "none of BMP" in refused(content)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("factor", [1.2, 5])
def test_decompression_bombs_are_an_error(few_pixels: None, factor: float) -> None:
    bomb = encoded(Image.new("L", (100, int(100 * factor))))
    assert "could be decompression bomb DOS attack" in refused(bomb)
    with pytest.raises(UserError, match="decompression bomb"):
        open_image("a", bomb, 1)


def test_sides_so_different_that_resizing_explodes_are_an_error(few_pixels: None) -> None:
    thin = encoded(Image.new("L", (1, 900)))
    assert decode([("a", thin)], 1, None).shape == (1, 1, 900, 1)
    message = "a/b.png: 1 x 900 pixels would become 32 x 28800, expected at most 10000 pixels; crop or remove it"
    assert refused(thin, 1, 32) == message


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("place", ["before", "after"])
def test_text_that_unpacks_to_megabytes_is_an_error(place: str) -> None:
    content = encoded(Image.new("L", (8, 8)))
    packed = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 64 * 2**20, 9))
    assert len(packed) < 2**17
    cut = content.index(b"IDAT") - 4 if place == "before" else content.index(b"IEND") - 4
    assert "Decompressed data too large" in refused(content[:cut] + packed + content[cut:])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    values = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    for channels in (1, 3):
        image = decode([("a", encoded(grey(values), kind))], channels, None)[0]
        assert np.array_equal(image, np.repeat((values >> 8)[None], channels, axis=0))


def test_sixteen_bits_of_a_portable_map_and_of_colours_are_treated_alike() -> None:
    values = (np.arange(64) * 1040).astype(">u2").reshape(8, 8)
    plain = b"P5 8 8 65535\n" + values.tobytes()
    assert np.array_equal(decode([("a", plain)], 1, None)[0, 0], values >> 8)
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    colours = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode([("a", colours)], 3, None)[0], np.repeat((values >> 8)[None], 3, axis=0))


@pytest.mark.parametrize(
    ("dtype", "words"), [(np.int32, "whole numbers of 32 bits"), (np.float32, "floats, not whole numbers")]
)
def test_values_without_a_known_range_are_refused(dtype: Any, words: str) -> None:
    assert words in refused(encoded(grey(np.arange(64, dtype=dtype).reshape(8, 8)), "TIFF"))


def test_palettes_transparency_and_ink_become_colours() -> None:
    flat = Image.new("RGB", (8, 8), (200, 40, 90))
    palette = flat.quantize(2)
    clear = Image.new("RGBA", (8, 8), (200, 40, 90, 0))
    see_through = encoded(palette, transparency=0)
    for content in (encoded(palette), see_through, encoded(clear), encoded(flat.convert("CMYK"), "TIFF")):
        assert np.abs(decode([("a", content)], 3, None)[0, :, 0, 0].astype(int) - [200, 40, 90]).max() <= 3
    luma = np.asarray(flat.convert("L"))[0, 0]
    assert decode([("a", encoded(clear))], 1, None).max() == luma
    bits = encoded(grey(np.eye(8, dtype=bool)))
    assert np.array_equal(decode([("a", bits)], 1, None)[0, 0], 255 * np.eye(8))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_an_animation_the_first_image_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (60, 200, 130)]
    more = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert (decode([("a", content)], 3, None) == 60).all()


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.JPG").write_bytes(encoded(Image.new("L", (8, 8), value), "PNG"))
        (tmp_path / name / "image.dat").write_bytes(encoded(Image.new("L", (8, 8), 99), "PNG"))
    samples = image_folder(root=str(tmp_path), channels=1)
    assert samples.ids == ["a/x.JPG", "b/x.JPG"]
    assert samples.read(np.arange(2))[:, 0, 0, 0].tolist() == [10, 20]


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(encoded(Image.new("L", (8, 8))))
    samples = image_folder(root=str(tmp_path))
    (tmp_path / "b/x.png").unlink()
    (tmp_path / "b/x.png").mkdir()
    for look in (lambda: samples.read(np.arange(2)), lambda: samples.encoded and samples.encoded(1)):
        with pytest.raises(UserError, match=r"b/x.png: cannot be read \(Is a directory\); make it readable or remove"):
            look()


def test_names_in_any_script_come_through(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for label, name in enumerate(NAMES[:5]):
        for number, file in enumerate(NAMES):
            path = root / name / (file[:100] + ".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(Image.new("L", (8, 8), 20 * label + number)))
    out = tmp_path / "out.safetensors"
    spec = {"source": "image_folder", "options": {"root": str(root), "channels": 1}, "split": "evaluation"}
    prepare(spec=complete("prepare", {**spec, "test_share": 0.5}), code="", out=out)
    tensors, meta = store.read_tensors(out)
    assert meta["classes"] == sorted(NAMES[:5])
    ids = store.unpack(tensors["ids"])
    assert len(ids) == 25
    for name, label, image in zip(ids, tensors["labels"], tensors["images"], strict=True):
        folder, _, file = name.partition("/")
        assert meta["classes"][label] == folder
        assert image[0, 0, 0] == 20 * NAMES.index(folder) + [n[:100] for n in NAMES].index(file.removesuffix(".png"))


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "bell\a", "\x1b[2J", "next\x85line", "line\u2028end", b"\xff\xfe"])
@pytest.mark.parametrize("place", ["folder", "file"])
def test_names_that_fit_in_no_line_are_refused_in_one(tmp_path: Path, name: str | bytes, place: str) -> None:
    odd = os.fsdecode(name)
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "x.png").write_bytes(encoded(Image.new("L", (8, 8))))
    path = tmp_path / odd / "x.png" if place == "folder" else tmp_path / "other" / f"{odd}.png"
    path.parent.mkdir()
    path.write_bytes(encoded(Image.new("L", (8, 8))))
    with pytest.raises(UserError, match=f"the name of a {place}, .* expected text in one line; rename it") as error:
        image_folder(root=str(tmp_path))
    assert str(error.value).isprintable()


IMAGES = st.builds(
    lambda mode, height, width, data: (
        Image.frombytes("L", (width, height), data[: width * height]).convert(mode)
        if mode not in ("I;16", "I;16B", "LAB", "PA")
        else Image.new(mode, (width, height))
    ),
    st.sampled_from(MODES),
    st.integers(1, 12),
    st.integers(1, 12),
    st.binary(min_size=144, max_size=144),
)
BOUNDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def outcome(content: bytes, channels: int, size: int | None, crop: float = 1.0) -> np.ndarray | None:
    """The decoded image, or None if it is refused in one line that names it."""
    try:
        image = decode([("a.png", content)], channels, size, crop)
    except UserError as error:
        assert str(error).startswith("a.png: ") and len(str(error).splitlines()) == 1
        return None
    assert image.dtype == np.uint8 and image.shape[:2] == (1, channels)
    assert size is None or image.shape[2:] == (size, size)
    return image[0]


@BOUNDED
@given(IMAGES, st.sampled_from(FORMATS), st.sampled_from((1, 3)), st.none() | st.integers(1, 16), st.floats(0.3, 1))
def test_any_image_is_decoded_or_refused(
    image: Image.Image, kind: str, channels: int, size: int | None, crop: float
) -> None:
    try:
        content = encoded(image, kind)
    except (OSError, ValueError, KeyError, SystemError):  # a format that has no such mode
        assume(False)
    found = outcome(content, channels, size, crop if size else 1.0)
    if found is None:
        assert image.mode in ("I", "F", "LAB", "HSV")
    elif size is None:
        assert found.shape[1:] == (image.height, image.width)
        if kind in LOSSLESS and image.mode in ("L", "RGB"):
            assert np.array_equal(found[0], np.asarray(image.convert("L")))


@BOUNDED
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 500),
    st.sampled_from((1, 3)),
    st.none() | st.integers(1, 8),
)
def test_damaged_bytes_are_decoded_or_refused(
    few_pixels: None,
    kind: str,
    changes: list[tuple[int, int]],
    kept: int | None,
    channels: int,
    size: int | None,
) -> None:
    content = bytearray(encoded(Image.fromarray(NOISE[:9, :9]), kind))
    for place, value in changes:
        content[place % len(content)] = value
    outcome(bytes(content[:kept]), channels, size)
