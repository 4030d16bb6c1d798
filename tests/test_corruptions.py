from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from pipeline import registry
from pipeline.corruptions._filters import correlate
from pipeline.corruptions.defocus_blur import disk
from tests.corruptions_kit import corrupt, natural

IMPORTED = {"array_archive", "folder_archive"}  # these need an archive
NAMES = tuple(name for name in registry.names("corruption") if name not in IMPORTED)
# The published constants do not order the size of their change; where they do in part, their own tests say so.
UNORDERED = {"elastic_transform", "frost", "glass_blur", "motion_blur", "saturate", "snow", "spatter"}
SIZES = ((8, 8), (32, 32), (100, 60))


@pytest.mark.parametrize("name", NAMES)
def test_each_says_its_family_and_takes_constants(name: str) -> None:
    assert registry.constant("corruption", name, "FAMILY")
    assert registry.bind("corruption", name, {}, "config")["constants"] == "auto"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("size", SIZES)
def test_keeps_shape_type_and_range(name: str, channels: int, size: tuple[int, int]) -> None:
    images = natural(2, channels, *size)
    images[0, :, 0, 0], images[0, :, -1, -1] = 0, 1
    before = images.clone()
    for severity in range(1, 6):
        for constants in ("cifar", "imagenet"):
            out = corrupt(name, images, severity, constants=constants)
            assert out.shape == images.shape and out.dtype == torch.float32
            assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_batch_equals_singles_bit_for_bit(name: str, size: tuple[int, int]) -> None:
    images, seeds = natural(5, 3, *size), torch.arange(5) * 31 + 1
    function = registry.load("corruption", name)
    whole = function(images=images, seeds=seeds, severity=3)
    order = torch.tensor([3, 0, 4])
    assert torch.equal(function(images=images[order], seeds=seeds[order], severity=3), whole[order])
    singles = [function(images=images[i : i + 1], seeds=seeds[i : i + 1], severity=3) for i in range(5)]
    assert torch.equal(torch.cat(singles), whole)


@pytest.mark.parametrize("name", sorted(set(NAMES) - UNORDERED))
@pytest.mark.parametrize("constants", ("cifar", "imagenet"))
def test_severity_grows(name: str, constants: str) -> None:
    images = natural(8, 3, 64, 64)
    function, seeds = registry.load("corruption", name), torch.arange(8) * 7919  # the same draws, or chance decides
    levels = (function(images=images, seeds=seeds, severity=s, constants=constants) for s in range(1, 6))
    change = [(level - images).square().mean().item() for level in levels]
    assert change == sorted(set(change)) and change[0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_constants_follow_the_size(name: str) -> None:
    for size, published in ((64, "cifar"), (65, "imagenet")):
        images = natural(1, 1, size, 32)
        assert torch.equal(corrupt(name, images, 2), corrupt(name, images, 2, constants=published))


@pytest.mark.parametrize("severity", (0, 6))
def test_refuses_other_severities(severity: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 5"):
        corrupt("contrast", natural(1, 1, 8, 8), severity)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", ("mirror", "nearest"))
def test_correlation_equals_scipy_for_kernels_wider_than_the_image(size: tuple[int, int], border: str) -> None:
    generator = np.random.default_rng(1)
    images, kernel = generator.normal(size=(2, 3, *size)), generator.normal(size=(21, 35))
    ours = correlate(torch.from_numpy(images), torch.from_numpy(kernel), border=border)
    theirs = ndimage.correlate(images, kernel[None, None], mode=border)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma, severity, constants", [(0.4, 1, "cifar"), (1.0, 5, "cifar"), (6.0, 5, "imagenet")])
def test_gaussian_blur_equals_scipy(size: tuple[int, int], sigma: float, severity: int, constants: str) -> None:
    images = natural(2, 3, *size)
    theirs = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    ours = corrupt("gaussian_blur", images, severity, constants=constants)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "radius, smoothing, severity, constants", [(0.5, 0.6, 3, "cifar"), (1.5, 0.1, 5, "cifar"), (10, 0.5, 5, "imagenet")]
)
def test_defocus_blur_equals_scipy(
    size: tuple[int, int], radius: float, smoothing: float, severity: int, constants: str
) -> None:
    line = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    x, y = np.meshgrid(line, line)
    hard = (x**2 + y**2 <= radius**2).astype(float)
    reach = 1 if radius <= 8 else 2
    soft = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * smoothing**2))
    kernel = hard / hard.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, soft / soft.sum(), axis=axis, mode="mirror")
    np.testing.assert_allclose(disk(radius, smoothing).numpy(), kernel, atol=1e-12)
    images = natural(2, 3, *size)
    theirs = ndimage.correlate(images.double().numpy(), kernel[None, None], mode="mirror")
    ours = corrupt("defocus_blur", images, severity, constants=constants)
    np.testing.assert_allclose(ours.numpy(), theirs.clip(0, 1), atol=1e-5)


def test_brightness_equals_colorsys() -> None:
    images = natural(2, 3, 8, 8)
    images[0, :, 0, 0] = 0  # black becomes grey
    images[0, :, 1, 1] = torch.tensor([1.0, 0.5, 0.0])
    ours = corrupt("brightness", images, 5).permute(0, 2, 3, 1).reshape(-1, 3)
    for pixel, out in zip(images.permute(0, 2, 3, 1).reshape(-1, 3).tolist(), ours.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        assert out == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3)), abs=1e-6)


def test_brightness_of_greyscale_is_an_addition() -> None:
    images = natural(2, 1, 8, 8)
    torch.testing.assert_close(corrupt("brightness", images, 2), (images + 0.1).clamp(max=1))


def test_contrast_keeps_the_mean_and_scales_the_deviation() -> None:
    images = natural(3, 3, 100, 60)
    out = corrupt("contrast", images, 2, constants="cifar")
    torch.testing.assert_close(out.mean((-2, -1)), images.mean((-2, -1)))
    torch.testing.assert_close(out.std((-2, -1)), 0.5 * images.std((-2, -1)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", (*SIZES, (24, 48)))
@pytest.mark.parametrize("constants", ("cifar", "imagenet"))
def test_pixelate_equals_pillow_to_one_grey_level(size: tuple[int, int], constants: str) -> None:
    scales = {"cifar": (0.95, 0.9, 0.85, 0.75, 0.65), "imagenet": (0.6, 0.5, 0.4, 0.3, 0.25)}[constants]
    images = natural(1, 3, *size)
    height, width = size
    picture = Image.fromarray((images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    for severity, scale in enumerate(scales, start=1):
        small = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BOX)
        theirs = np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=float)
        ours = (corrupt("pixelate", images, severity, constants=constants)[0].permute(1, 2, 0) * 255).round().numpy()
        assert np.abs(ours - theirs).max() <= 1


def test_gaussian_noise_has_the_published_deviation() -> None:
    out = corrupt("gaussian_noise", torch.full((16, 3, 32, 32), 0.5), 3) - 0.5
    count = out.numel()
    assert abs(out.mean().item()) < 4 * 0.08 / count**0.5
    assert out.std().item() == pytest.approx(0.08, abs=4 * 0.08 / (2 * count) ** 0.5)


def test_shot_noise_has_the_moments_of_a_poisson_law() -> None:
    rate, level = 50, 0.3
    out = corrupt("shot_noise", torch.full((16, 3, 32, 32), level), 5)
    deviation = (level / rate) ** 0.5
    assert out.mean().item() == pytest.approx(level, abs=4 * deviation / out.numel() ** 0.5)
    assert out.std().item() == pytest.approx(deviation, rel=0.02)
    torch.testing.assert_close(out * rate, (out * rate).round())
    assert corrupt("shot_noise", torch.zeros(1, 1, 8, 8), 5).eq(0).all()


def test_impulse_noise_replaces_the_published_share_by_black_and_white() -> None:
    out = corrupt("impulse_noise", torch.full((16, 3, 32, 32), 0.5), 5)
    count, share = out.numel(), 0.07
    changed = out != 0.5
    assert set(out[changed].unique().tolist()) == {0.0, 1.0}
    assert changed.float().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)
    assert out[changed].mean().item() == pytest.approx(0.5, abs=4 * 0.5 / (share * count) ** 0.5)
    assert (changed.any(1) != changed.all(1)).any()  # channels are hit one by one


def test_noise_depends_on_the_seed_alone() -> None:
    images = torch.full((2, 1, 8, 8), 0.5)
    for name in ("gaussian_noise", "shot_noise", "impulse_noise"):
        function = registry.load("corruption", name)
        same = function(images=images, seeds=torch.tensor([5, 5]), severity=5, constants="imagenet")
        other = function(images=images, seeds=torch.tensor([5, 6]), severity=5, constants="imagenet")
        assert torch.equal(same[0], same[1]) and torch.equal(same[0], other[0])
        assert not torch.equal(other[0], other[1])
