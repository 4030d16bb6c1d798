from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import registry
from pipeline.corruptions import _bar_warp
from pipeline.corruptions.lines import _distance
from tests import bar_warp_originals as originals
from tests.corruptions_kit import LEVEL, natural

NAMES = tuple(originals.LEVELS)
FAMILIES = {
    "checkerboard_cutout": "occlusion",
    "sparkles": "pattern",
    "inverse_sparkles": "pattern",
    "lines": "pattern",
    "circular_motion_blur": "blur",
}


def _ours(name: str, images: torch.Tensor, severity: int, **options: object) -> torch.Tensor:
    seeds = torch.arange(len(images)) * 7919 + 5
    return registry.load("corruption", name)(images=images, seeds=seeds, severity=severity, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ((8, 8), (32, 32), (26, 15)))
@pytest.mark.parametrize("which, constants", ((0, "cifar"), (1, "imagenet")))
def test_equals_the_original_of_one_image_at_every_severity(
    name: str, size: tuple[int, int], which: int, constants: str
) -> None:
    images = natural(2, 3, *size)
    for severity, level in enumerate(originals.LEVELS[name][which], start=1):
        if severity in (2, 4) and size != (32, 32):
            continue
        ours = _ours(name, images, severity, constants=constants)
        for row, image in enumerate(images.permute(0, 2, 3, 1).double().numpy()):
            generator = torch.Generator().manual_seed(row * 7919 + 5)
            theirs = getattr(originals, name)(image, generator, level, math.sqrt(size[0] * size[1])).clip(0, 1)
            np.testing.assert_allclose(ours[row].permute(1, 2, 0).numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_says_its_family(name: str) -> None:
    assert registry.constant("corruption", name, "FAMILY") == FAMILIES.get(name, "warp")


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_a_batch_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = natural(5, 3, 12, 9)
    whole = _ours(name, images, 4)  # in one part; then one image at a time
    monkeypatch.setattr(_bar_warp, "PIXELS", 12)
    assert torch.equal(_ours(name, images, 4), whole)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_images_does_not_matter(name: str) -> None:
    images, seeds, order = natural(7, 3, 13, 11), torch.arange(7), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    function = registry.load("corruption", name)
    whole = function(images=images, seeds=seeds, severity=5)
    assert torch.equal(function(images=images[order], seeds=seeds[order], severity=5), whole[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ((4, 4), (4, 9), (65, 5)))
def test_takes_any_size_and_greyscale(name: str, size: tuple[int, int]) -> None:
    images = natural(2, 1, *size)
    for severity in (1, 5):
        out = _ours(name, images, severity)
        assert out.shape == images.shape and out.dtype == torch.float32
        assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("name", sorted({*NAMES} - {"transverse_chromatic_aberration"}))
def test_channels_are_treated_alike(name: str) -> None:
    images = natural(2, 1, 16, 20)
    out = _ours(name, images.expand(-1, 3, -1, -1), 3)
    torch.testing.assert_close(out, _ours(name, images, 3).expand(-1, 3, -1, -1), atol=1e-6, rtol=0)


def test_greyscale_aberration_is_the_luma_of_the_coloured_one() -> None:
    images = natural(3, 1, 16, 20)
    coloured = _ours("transverse_chromatic_aberration", images.expand(-1, 3, -1, -1), 3)
    luma = torch.einsum("nchw,c->nhw", coloured, torch.tensor([0.299, 0.587, 0.114]))[:, None]
    torch.testing.assert_close(_ours("transverse_chromatic_aberration", images, 3), luma, atol=1e-6, rtol=0)


def test_aberration_blurs_the_colour_that_it_does_not_enlarge() -> None:
    images = natural(6, 3, 20, 20)
    out = _ours("transverse_chromatic_aberration", images, 5)
    blurred = images.double().numpy()
    for axis in (2, 3):
        blurred = ndimage.correlate1d(blurred, np.array([1, 4, 1]) / 6, axis=axis, mode="mirror")
    kept = np.abs(out.numpy() - blurred).max((2, 3)) < LEVEL
    assert (kept.sum(1) == 1).all() and kept.any(0).sum() > 1  # one colour an image, not always the same


def test_what_lies_beneath_grey_or_white_is_left() -> None:
    white, grey = torch.ones(4, 3, 16, 16), torch.full((4, 3, 16, 16), originals.GREY)
    for name in ("sparkles", "inverse_sparkles"):
        assert torch.equal(_ours(name, white, 5), white)
        assert (_ours(name, grey, 5) >= grey - 1e-6).all()
    for name in ("checkerboard_cutout", "lines"):
        assert torch.equal(_ours(name, grey, 5), grey)
    for name in ("pinch_and_twirl", "transverse_chromatic_aberration"):
        torch.testing.assert_close(_ours(name, grey, 5), grey)


@pytest.mark.parametrize("severity, share", ((1, 0.1), (5, 0.5)))
def test_cutout_covers_the_share_of_half_the_board(severity: int, share: float) -> None:
    covered = _ours("checkerboard_cutout", torch.zeros(600, 1, 32, 32), severity, constants="cifar").mean((1, 2, 3))
    expected, error = share / 2, covered.std().item() / originals.GREY / len(covered) ** 0.5
    assert covered.mean().item() / originals.GREY == pytest.approx(expected, abs=4 * error)


def test_a_line_has_the_coverage_of_the_antialiased_algorithm() -> None:
    cover = 1 - _distance(torch.tensor([[0.0, 0.0, 2.0, 5.0]]), 4, 7)[0].clamp(max=1)
    expected = torch.zeros(4, 7)  # scikit-image 0.26, line_aa(0, 0, 2, 5)
    expected[0, :3] = torch.tensor([1.0, 0.62860932, 0.25721865])
    expected[1, :6] = torch.tensor([0.07152331, 0.44291399, 0.81430466, 0.81430466, 0.44291399, 0.07152331])
    expected[2, 3:6] = torch.tensor([0.25721865, 0.62860932, 1.0])
    torch.testing.assert_close(cover, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("constants, counts", (("cifar", (1, 3, 4, 6, 8)), ("imagenet", (2, 5, 7, 10, 12))))
def test_number_of_lines(constants: str, counts: tuple[int, ...]) -> None:
    for severity, count in enumerate(counts, start=1):
        dark = (_ours("lines", torch.zeros(1, 1, 32, 32), severity, constants=constants) > 0).sum().item()
        # each line is one or two pixels wide and at least 16 long, unless lines cross
        assert 8 * count <= dark <= 3 * 32 * count


def test_pinch_moves_nothing_outside_the_disks() -> None:
    images = natural(2, 3, 32, 32)
    out = _ours("pinch_and_twirl", images, 5)
    changed = (out - images).abs().amax((0, 1)) > LEVEL
    rows, columns = np.mgrid[:32, :32]
    inside = (np.hypot(rows % 10 - 5, columns % 10 - 5) < 5) & (rows < 30) & (columns < 30)
    assert not changed[torch.from_numpy(~inside)].any() and changed[torch.from_numpy(inside)].float().mean() > 0.5


def test_rotations_keep_the_disk_about_the_centre_of_a_symmetric_image() -> None:
    rows, columns = np.mgrid[:33, :33]
    image = torch.from_numpy(np.exp(-((rows - 16) ** 2 + (columns - 16) ** 2) / 72)).float()[None, None]
    out = _ours("circular_motion_blur", image, 5)
    disk = torch.from_numpy(np.hypot(rows - 16, columns - 16) < 15)
    torch.testing.assert_close(out[0, 0][disk], image[0, 0][disk], atol=2e-3, rtol=0)
    assert out[0, 0, 0, 0] < 0.6 * image[0, 0, 0, 0]  # the corners turn out of the image


@pytest.mark.parametrize("border, mode", (("black", "grid-constant"), ("nearest", "nearest")))
def test_bilinear_reading_equals_scipy(border: str, mode: str) -> None:
    draw = np.random.default_rng(0)
    images, rows, columns = natural(2, 3, 7, 9), draw.uniform(-4, 11, (2, 7, 9)), draw.uniform(-4, 13, (2, 7, 9))
    ours = _bar_warp.bilinear(images, torch.from_numpy(rows), torch.from_numpy(columns), border=border)
    for row, image in enumerate(images.permute(0, 2, 3, 1).double().numpy()):
        theirs = originals.read(image, rows[row], columns[row], mode)
        np.testing.assert_allclose(ours[row].permute(1, 2, 0).numpy(), theirs, atol=1e-6)
