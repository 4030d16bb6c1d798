"""Speckle, saturation, JPEG, elastic and zoom: against independent computations, one image at a time."""

from __future__ import annotations

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from pipeline import registry
from tests.corruptions_kit import LEVEL, corrupt, natural

SIZES = ((8, 8), (32, 32), (33, 47), (100, 60))
BOTH = ("cifar", "imagenet")
SEVERITIES = range(1, 6)
SPECKLE = {"cifar": (0.06, 0.1, 0.12, 0.16, 0.2), "imagenet": (0.15, 0.2, 0.35, 0.45, 0.6)}
SATURATE = {
    "cifar": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "imagenet": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
}
QUALITY = {"cifar": (80, 65, 58, 50, 40), "imagenet": (25, 18, 15, 10, 7)}
ELASTIC = {  # displacement, deviation of the smoothing, jitter of the corners; lengths in pixels at these sizes
    ("cifar", 32): ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
    ("imagenet", 224): (
        (488, 170.8, 24.4),
        (488, 19.52, 48.8),
        (12.2, 2.44, 4.88),
        (17.08, 2.44, 4.88),
        (29.28, 2.44, 4.88),
    ),
}
ZOOMS = {
    "cifar": tuple(np.arange(1, stop, 0.01) for stop in (1.06, 1.11, 1.16, 1.21, 1.26)),
    "imagenet": tuple(
        np.arange(1, stop, step)
        for stop, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ),
}


@pytest.mark.parametrize("constants", BOTH)
def test_speckle_has_the_published_relative_deviation(constants: str) -> None:
    dark, count = 0.2, 16 * 3 * 32 * 32
    images = torch.full((16, 3, 32, 32), dark)
    for severity, sigma in enumerate(SPECKLE[constants], start=1):
        noise = corrupt("speckle_noise", images, severity, constants=constants) / dark - 1
        # Clipping at black moves neither the median nor the share within one deviation.
        assert noise.median().abs() < 4 * 1.2533 * sigma / count**0.5
        inner = (noise.abs() < sigma).sum().item() / count
        assert inner == pytest.approx(0.68269, abs=4 * (0.68269 * 0.31731 / count) ** 0.5)


def test_speckle_grows_with_the_light() -> None:
    ramp = torch.linspace(0, 0.5, 8).view(8, 1, 1, 1).expand(8, 3, 8, 8)
    function = registry.load("corruption", "speckle_noise")
    out = function(images=ramp, seeds=torch.full((8,), 3), severity=1)
    torch.testing.assert_close(out, ramp * (out[-1] / 0.5))
    assert out[0].eq(0).all()


@pytest.mark.parametrize("constants", BOTH)
def test_saturate_equals_colorsys(constants: str) -> None:
    images = natural(2, 3, 8, 8)
    images[0, :, 0, 0] = 0
    images[0, :, 1, 1] = 0.5  # grey has hue 0, red
    images[0, :, 2, 2] = torch.tensor([1.0, 0.5, 0.0])
    images[1, :, 0, :] = natural(1, 1, 1, 8)[0, :, 0] + LEVEL * torch.eye(3, 8)  # almost grey
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    for severity, (factor, added) in enumerate(SATURATE[constants], start=1):
        ours = corrupt("saturate", images, severity, constants=constants).permute(0, 2, 3, 1).reshape(-1, 3).tolist()
        for pixel, out in zip(pixels, ours, strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            assert out == pytest.approx(colorsys.hsv_to_rgb(hue, min(1, factor * saturation + added), value), abs=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_leaves_greyscale_images_alone(severity: int) -> None:
    images = natural(2, 1, 8, 8)
    out = corrupt("saturate", images, severity)
    assert torch.equal(out, images) and out.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("constants", BOTH)
@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("size", SIZES)
def test_jpeg_equals_pillow(constants: str, channels: int, size: tuple[int, int]) -> None:
    images = natural(2, channels, *size)
    for severity, quality in enumerate(QUALITY[constants], start=1):
        ours = corrupt("jpeg_compression", images, severity, constants=constants)
        for image, out in zip(images, ours, strict=True):
            colour = (image * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()
            file = BytesIO()
            Image.fromarray(colour).save(file, "JPEG", quality=quality)
            theirs = np.asarray(Image.open(file)).transpose(2, 0, 1)[:channels]  # grey stays grey in a colour file
            np.testing.assert_allclose(out.numpy() * 255, theirs, atol=1e-4)


def test_jpeg_rounds_to_the_nearest_grey_level() -> None:
    images = natural(2, 3, 16, 16)
    for moved in (images + 0.4 * LEVEL, images - 0.4 * LEVEL):
        assert torch.equal(corrupt("jpeg_compression", moved, 3), corrupt("jpeg_compression", images, 3))


def _elastic(image: np.ndarray, seed: int, length: float, sigma: float, jitter: float) -> np.ndarray:
    """One (c, h, w) image, by the scipy functions that the original calls or that do what OpenCV's do there."""
    height, width = image.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(6 + 2 * height * width, generator=generator).double().numpy() * 2 - 1
    centre, half = np.array([width // 2, height // 2]), min(height, width) // 3
    corners = centre + half * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + jitter * draws[:6].reshape(3, 2)
    inverse = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)  # (x, y, 1) @ inverse = source (x, y)
    matrix, offset = inverse[1::-1, ::-1].T, inverse[2, ::-1]  # in rows and columns
    warped = [ndimage.affine_transform(channel, matrix, offset, order=1, mode="mirror") for channel in image]
    shift = draws[6:].reshape(2, height, width)
    dx, dy = (length * ndimage.gaussian_filter(one, sigma, mode="reflect", truncate=3) for one in shift)
    rows, columns = np.mgrid[:height, :width]
    return np.stack(
        [ndimage.map_coordinates(one, (rows + dy, columns + dx), order=1, mode="reflect") for one in warped]
    )


@pytest.mark.parametrize("constants, side", ELASTIC)
@pytest.mark.parametrize("size", (*SIZES, (4, 5)))
def test_elastic_equals_scipy_on_the_same_draws(constants: str, side: int, size: tuple[int, int]) -> None:
    images, seeds = natural(2, 3, *size), torch.tensor([4, 2**40])
    function = registry.load("corruption", "elastic_transform")
    for severity, lengths in enumerate(ELASTIC[constants, side], start=1):
        ours = function(images=images, seeds=seeds, severity=severity, constants=constants).numpy()
        scaled = [length * min(size) / side for length in lengths]
        for image, seed, out in zip(images.double().numpy(), seeds.tolist(), ours, strict=True):
            np.testing.assert_allclose(out, _elastic(image, seed, *scaled), atol=2e-4)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_moves_all_channels_alike_and_keeps_flat_images(severity: int) -> None:
    grey = natural(2, 1, 16, 20)
    colour = corrupt("elastic_transform", grey.expand(-1, 3, -1, -1), severity)
    torch.testing.assert_close(colour, corrupt("elastic_transform", grey, severity).expand(-1, 3, -1, -1))
    flat = torch.full((2, 3, 16, 20), 0.3)
    torch.testing.assert_close(corrupt("elastic_transform", flat, severity, constants="imagenet"), flat)


def _zoom(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mean of a (c, h, w) image and its copies, with the crop made for each axis by itself."""
    total = image.copy()
    for factor in factors:
        kept, crops = [slice(None)], [slice(None)]
        for size in image.shape[1:]:
            crop = int(np.ceil(size / factor))
            first = (size - crop) // 2
            crops.append(slice(first, first + crop))
        stretched = ndimage.zoom(image[tuple(crops)], (1, factor, factor), order=1)
        for size, longer in zip(image.shape[1:], stretched.shape[1:], strict=True):
            trim = (longer - size) // 2
            kept.append(slice(trim, trim + size))
        total += stretched[tuple(kept)]
    return total / (len(factors) + 1)


@pytest.mark.parametrize("constants", BOTH)
@pytest.mark.parametrize("size", (*SIZES, (4, 5), (28, 28), (64, 50)))
def test_zoom_equals_scipy(constants: str, size: tuple[int, int]) -> None:
    images = natural(2, 3, *size)
    for severity, factors in enumerate(ZOOMS[constants], start=1):
        ours = corrupt("zoom_blur", images, severity, constants=constants).numpy()
        theirs = np.stack([_zoom(image, factors) for image in images.double().numpy()])
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_zoom_keeps_flat_images_and_blurs_the_middle_least() -> None:
    flat = torch.full((2, 3, 65, 65), 0.3)
    torch.testing.assert_close(corrupt("zoom_blur", flat, 5), flat)
    images = natural(8, 3, 65, 65)
    change = (corrupt("zoom_blur", images, 5) - images).square().mean((0, 1))
    assert change[28:37, 28:37].mean() < 0.6 * change.mean()


@pytest.mark.parametrize("name, limit", [("elastic_transform", "PART"), ("zoom_blur", "ENTRIES")])
def test_parts_of_a_batch_change_nothing(name: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = natural(7, 3, 12, 9)
    whole = corrupt(name, images, 4)
    for entries in (1, 3, 3 * 12 * 9 * 2):
        monkeypatch.setattr(f"pipeline.corruptions.{name}.{limit}", entries)
        assert torch.equal(corrupt(name, images, 4), whole)
