from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import registry
from pipeline.corruptions import _filters
from pipeline.corruptions._filters import blur, correlate
from pipeline.corruptions.glass_blur import shuffle
from pipeline.corruptions.motion_blur import smear
from pipeline.numerics.randomness import per_sample, uniform
from tests.corruptions_kit import corrupt, natural

GLASS = {
    "cifar": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "imagenet": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
}
MOTION = {
    "cifar": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "imagenet": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
}


def visit_one_by_one(picture: np.ndarray, choices: np.ndarray, reach: int) -> np.ndarray:
    """Glass blur's sweeps over one picture (h, w, ...), place after place, for choices (sweeps, h', w')."""
    picture = picture.copy()
    height, width = picture.shape[:2]
    for sweep in choices:
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                down, right = divmod(int(sweep[row - reach - 1, column - reach - 1]), 2 * reach)
                picture[row, column] = picture[row + down - reach, column + right - reach]
    return picture


def draw_choices(seeds: torch.Tensor, reach: int, sweeps: int, height: int, width: int) -> torch.Tensor:
    shape = (sweeps, max(0, height - 2 * reach), max(0, width - 2 * reach))
    return per_sample(lambda _, g: torch.randint((2 * reach) ** 2, shape, generator=g, dtype=torch.uint8), seeds)


@pytest.mark.parametrize("reach", (1, 2, 3, 4))
@pytest.mark.parametrize("size", ((4, 4), (9, 9), (12, 31), (31, 12)))
def test_shuffle_equals_visiting_one_place_after_the_other(reach: int, size: tuple[int, int]) -> None:
    choices = draw_choices(torch.tensor([3, 4, 5]), reach, 3, *size)
    place = np.arange(size[0] * size[1]).reshape(size)
    theirs = [visit_one_by_one(place, image, reach).ravel() for image in choices.numpy()]
    np.testing.assert_array_equal(shuffle(choices, reach, *size).numpy(), theirs)


@pytest.mark.parametrize("choice", range(64))
def test_shuffle_follows_the_longest_chains(choice: int) -> None:
    reach, height, width = 4, 15, 23
    choices = torch.full((1, 1, height - 2 * reach, width - 2 * reach), choice)
    theirs = visit_one_by_one(np.arange(height * width).reshape(height, width), choices[0].numpy(), reach)
    np.testing.assert_array_equal(shuffle(choices, reach, height, width)[0].numpy(), theirs.ravel())


@pytest.mark.parametrize("constants", ("cifar", "imagenet"))
@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("channels, size", ((1, (8, 8)), (3, (20, 14))))
def test_glass_blur_equals_a_sequential_one(
    constants: str, severity: int, channels: int, size: tuple[int, int]
) -> None:
    sigma, reach, sweeps = GLASS[constants][severity - 1]
    images, seeds = natural(2, channels, *size), torch.tensor([11, 12])
    choices = draw_choices(seeds, reach, sweeps, *size).numpy()
    ours = registry.load("corruption", "glass_blur")(images=images, seeds=seeds, severity=severity, constants=constants)
    for image, choice, out in zip(images.double().numpy(), choices, ours.numpy(), strict=True):
        soft = ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest", truncate=4)
        shuffled = visit_one_by_one(soft.transpose(1, 2, 0), choice, reach).transpose(2, 0, 1)
        theirs = ndimage.gaussian_filter(shuffled, (0, sigma, sigma), mode="nearest", truncate=4)
        np.testing.assert_allclose(out, theirs.clip(0, 1), atol=1e-5)


def test_glass_blur_copies_the_four_neighbours_up_and_left_equally_often() -> None:
    images = torch.rand(16, 1, 32, 32)  # all pixels differ, so a pixel tells where it came from
    out = corrupt("glass_blur", images, 1)  # sigma .05: no blur at all
    inner = out[:, :, 2:, 2:]
    shares = [
        (inner == images[:, :, 2 - up : 32 - up, 2 - left : 32 - left]).float().mean().item()
        for up in (0, 1)
        for left in (0, 1)
    ]
    count = inner.numel()
    assert sum(shares) == pytest.approx(1)
    assert all(abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / count) for share in shares)
    assert torch.equal(out[:, :, :2], images[:, :, :2]) and torch.equal(out[..., :2], images[..., :2])  # the frame


def test_glass_blur_changes_more_with_more_sweeps() -> None:
    images = natural(8, 3, 64, 64)
    change = [(corrupt("glass_blur", images, s) - images).square().mean().item() for s in range(1, 6)]
    assert change[3] > change[1] and change[4] > change[2]


def test_glass_blur_on_images_that_it_cannot_shuffle() -> None:
    images = natural(2, 3, 4, 8)
    torch.testing.assert_close(corrupt("glass_blur", images, 5, constants="imagenet"), blur(blur(images, 1.5), 1.5))


@pytest.mark.parametrize("constants", ("cifar", "imagenet"))
@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("channels, size", ((1, (8, 8)), (3, (30, 19))))
def test_motion_blur_equals_a_loop(constants: str, severity: int, channels: int, size: tuple[int, int]) -> None:
    radius, sigma = MOTION[constants][severity - 1]
    images, seeds = natural(3, channels, *size), torch.tensor([1, 2, 3])
    ours = registry.load("corruption", "motion_blur")(
        images=images, seeds=seeds, severity=severity, constants=constants
    )
    rows, columns = np.mgrid[: size[0], : size[1]]
    for image, out, turn in zip(images.double().numpy(), ours.numpy(), uniform(seeds, ()).tolist(), strict=True):
        angle = math.radians(90 * turn - 45)
        theirs, total = np.zeros_like(image), 0.0
        for step in range(2 * radius + 1):
            weight = math.exp(-(step**2) / (2 * sigma**2))
            down, right = (math.ceil(step * part - 0.5) for part in (math.sin(angle), math.cos(angle)))
            below, beside = (rows + down).clip(0, size[0] - 1), (columns + right).clip(0, size[1] - 1)
            theirs += weight * image[:, below, beside]
            total += weight
        np.testing.assert_allclose(out, theirs / total, atol=2e-6)


@pytest.mark.parametrize("quarter", range(4))
def test_smear_along_the_axes_is_a_one_sided_gaussian(quarter: int) -> None:
    images = natural(2, 3, 24, 17).double()
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 4**2))
    line = np.concatenate([np.zeros(12), weights / weights.sum()])
    # From the right towards the bottom: right, down, left, up.
    line, axis = (line[::-1] if quarter >= 2 else line), 3 - quarter % 2
    theirs = ndimage.correlate1d(images.numpy(), line, axis=axis, mode="nearest")
    angles = torch.full((2,), quarter * math.pi / 2, dtype=torch.float64)
    np.testing.assert_allclose(smear(images, angles, radius=6, sigma=4.0).numpy(), theirs, atol=1e-9)


def test_motion_blur_turns_by_at_most_45_degrees_and_evenly() -> None:
    images = torch.zeros(400, 1, 81, 81)
    images[:, 0, 40, 40] = 1
    out = corrupt("motion_blur", images, 5, constants="imagenet")[:, 0]
    torch.testing.assert_close(out.sum((1, 2)), torch.ones(400))
    line = torch.arange(81.0) - 40
    down, right = (out.sum(2) * line).sum(1), (out.sum(1) * line).sum(1)
    angles = torch.rad2deg(torch.atan(down / right))
    assert right.max() < 0  # the streak of a bright point runs to the left
    assert angles.abs().max() < 46 and angles.min() < -43 and angles.max() > 43
    assert abs(angles.mean().item()) < 4 * 90 / math.sqrt(12 * 400)
    assert angles.std().item() == pytest.approx(90 / math.sqrt(12), rel=0.1)


def test_motion_blur_grows_with_severity_but_for_two_published_constants_that_agree() -> None:
    images = natural(8, 3, 32, 32)
    function, seeds = registry.load("corruption", "motion_blur"), torch.arange(8)
    levels = [function(images=images, seeds=seeds, severity=severity) for severity in range(1, 6)]
    change = [(level - images).square().mean().item() for level in levels]
    assert 0 < change[0] < change[1] < change[2] < change[4]
    torch.testing.assert_close(levels[2], levels[3], atol=1e-6, rtol=0)


def test_motion_blur_keeps_an_even_image() -> None:
    images = torch.rand(5, 3, 1, 1).expand(5, 3, 8, 8)
    for constants in ("cifar", "imagenet"):
        torch.testing.assert_close(corrupt("motion_blur", images, 5, constants=constants), images.contiguous())


def kernels() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    quadrant = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    quadrant[0, 2] = quadrant[3, 1] = 0  # holes at the middle and at the rim
    quadrant[:3, 0] = 0.25  # equal around the middle of a column
    mirrored = torch.cat([quadrant.flip(0), quadrant[1:]])
    mirrored = torch.cat([mirrored.flip(1), mirrored[:, 1:]], 1)
    ragged = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    negative = mirrored - 0.3
    bordered = torch.nn.functional.pad(ragged, (3, 3, 2, 2))
    ring = torch.ones(5, 5, dtype=torch.float64)
    ring[1:4, 1:4] = 0
    return [mirrored, negative, ragged, bordered, ring, torch.ones(1, 1).double(), torch.zeros(3, 3).double()]


@pytest.mark.parametrize("kernel", kernels(), ids=("mirrored", "negative", "ragged", "bordered", "ring", "one", "zero"))
@pytest.mark.parametrize("border", ("mirror", "nearest"))
@pytest.mark.parametrize("piece", (1, 500, 2**16))
def test_correlation_equals_scipy_in_pieces_of_any_size(
    kernel: torch.Tensor, border: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = natural(5, 3, 9, 14).double()
    monkeypatch.setattr(_filters, "PIECE", piece)
    theirs = ndimage.correlate(images.numpy(), kernel.numpy()[None, None], mode=border)
    np.testing.assert_allclose(correlate(images, kernel, border=border).numpy(), theirs, atol=1e-8)


@pytest.mark.parametrize("name", ("defocus_blur", "gaussian_blur", "glass_blur", "motion_blur"))
@pytest.mark.parametrize("constants", ("cifar", "imagenet"))
def test_pieces_leave_every_bit_as_it_is(name: str, constants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = natural(6, 3, 20, 15)
    whole = corrupt(name, images, 5, constants=constants)
    for piece in (1, 3000):
        monkeypatch.setattr(_filters, "PIECE", piece)
        assert torch.equal(corrupt(name, images, 5, constants=constants), whole)


@pytest.mark.parametrize("name", ("defocus_blur", "gaussian_blur", "glass_blur", "motion_blur"))
def test_blurs_take_images_in_any_memory_layout(name: str) -> None:
    images = natural(3, 3, 12, 12)
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(corrupt(name, strided, 4), corrupt(name, images, 4))
