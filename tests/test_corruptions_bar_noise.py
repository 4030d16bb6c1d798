"""The additive patterns of C-bar against loops over pixels that take the same draws, and against their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline import registry
from pipeline.corruptions._bar_spectral import coloured
from pipeline.numerics.randomness import uniform
from tests.corruptions_kit import LEVEL, natural

NAMES = (
    "blue_noise_sample",
    "brownish_noise",
    "concentric_sine_waves",
    "perlin_noise",
    "plasma_noise",
    "single_frequency_greyscale",
)
SEEDS = torch.tensor([11, 5, 2**40])
EXTREMES = (("cifar", 1), ("cifar", 5), ("imagenet", 1), ("imagenet", 5))


def run(name: str, images: torch.Tensor, severity: int, constants: str, seeds: torch.Tensor = SEEDS) -> torch.Tensor:
    function = registry.load("corruption", name)
    out: torch.Tensor = function(images=images, seeds=seeds, severity=severity, constants=constants)
    return out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ((4, 4), (7, 9), (90, 90)))
def test_any_size_in_any_batch(name: str, size: tuple[int, int]) -> None:
    images, seeds = natural(12, 3, *size), torch.arange(12)  # 90 x 90: more pixels than one part of the patterns holds
    whole = run(name, images, 4, "auto", seeds)
    assert whole.shape == images.shape and whole.isfinite().all()
    single = torch.cat([run(name, images[i : i + 1], 4, "auto", seeds[i : i + 1]) for i in range(12)])
    assert torch.equal(whole, single)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("brownish_noise", "plasma_noise")])
def test_grey_noise_is_the_same_in_all_channels(name: str) -> None:
    images = natural(3, 1, 12, 20)
    coloured_images = run(name, images.expand(-1, 3, -1, -1), 3, "cifar")
    assert torch.equal(coloured_images, run(name, images, 3, "cifar").expand(-1, 3, -1, -1))


def test_a_grey_image_gets_the_grey_version_of_the_plasma() -> None:
    images = torch.full((3, 1, 12, 20), 0.5)
    weights = torch.tensor((0.299, 0.587, 0.114))[:, None, None]
    grey = (run("plasma_noise", images.expand(-1, 3, -1, -1), 5, "imagenet") * weights).sum(1, keepdim=True)
    torch.testing.assert_close(run("plasma_noise", images, 5, "imagenet"), grey)


@pytest.mark.parametrize("size", ((8, 8), (6, 10), (7, 5)))
def test_coloured_noise_is_the_real_part_of_a_spectrum_of_mirrored_phases(size: tuple[int, int]) -> None:
    height, width = size
    ours = coloured(SEEDS, 2, height, width, lambda frequency: 1 / (frequency**2 + 1))
    drawn = (height * width + 1) // 2
    phases = 2 * math.pi * uniform(SEEDS, (2, drawn)).double().numpy()
    down, across = (np.fft.fftfreq(side) * math.sqrt(height * width) for side in size)
    amplitude = 1 / (down[:, None] ** 2 + across**2 + 1)
    for image, planes in enumerate(phases):
        for channel, phase in enumerate(planes):
            full = np.empty(size)
            for place in range(height * width):
                row, column = divmod(place, width)
                if place < drawn:
                    full[row, column] = phase[place]
                else:  # the frequency f has the phase of -1 - f
                    full[row, column] = full[height - 1 - row, width - 1 - column]
            noise = np.fft.ifft2(amplitude * np.exp(1j * full)).real
            np.testing.assert_allclose(ours[image, channel].numpy(), noise / noise.std(), atol=1e-5)


@pytest.mark.parametrize("power", (1, -2))
def test_coloured_noise_has_the_spectrum_asked_for(power: int) -> None:
    def amplitude(frequency: torch.Tensor) -> torch.Tensor:
        return frequency.clamp(min=1) ** power

    noise = coloured(torch.arange(1500), 1, 8, 12, amplitude)[:, 0].double()
    assert noise.mean().abs() < 0.02 and noise.var((1, 2), correction=0).sub(1).abs().max() < 1e-5
    measured = torch.fft.rfft2(noise).abs().square().mean(0)
    nominal = amplitude(
        torch.hypot(torch.fft.fftfreq(8, dtype=torch.float64)[:, None], torch.fft.rfftfreq(12, dtype=torch.float64))
        * 12
    ).square()
    ratio = measured / nominal
    inner = ratio[1:4, 1:6]  # away from the borders of the half plane, where a frequency is its own opposite
    np.testing.assert_allclose(inner / inner.mean(), 1, atol=0.2)


@pytest.mark.parametrize(
    "constants, severity, threshold",
    [("cifar", 1, -2.29), ("cifar", 5, -1.24), ("imagenet", 1, -2.26), ("imagenet", 5, -0.82)],
)
def test_blue_noise_blackens_single_pixels(constants: str, severity: int, threshold: float) -> None:
    images = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(min=0.01)
    out = run("blue_noise_sample", images, severity, constants, torch.arange(200))
    lost = out == 0
    assert torch.equal(lost.any(1), lost.all(1)) and torch.equal(out[~lost], images[~lost])
    share = lost.double().mean().item()
    assert share == pytest.approx(0.5 * math.erfc(-threshold / 2**0.5), rel=0.05)
    both = (lost[..., 1:] & lost[..., :-1]).double().mean().item()
    assert both < 0.5 * share**2  # half as often side by side as independent ones


@pytest.mark.parametrize(
    "constants, severity, level", [("cifar", 1, 2.5), ("cifar", 5, 7.0), ("imagenet", 1, 1.0), ("imagenet", 5, 5.0)]
)
def test_brownish_noise_has_the_published_deviation_and_own_channels(
    constants: str, severity: int, level: float
) -> None:
    images = torch.full((20, 3, 32, 32), 0.5)
    added = run("brownish_noise", images, severity, constants, torch.arange(20)) - images
    planes = added[(added.abs() < 0.499).all((2, 3))]  # not clipped
    assert len(planes) > 5
    deviation = torch.full((len(planes),), 64 * level / 10 / 255)
    torch.testing.assert_close(planes.std((1, 2), correction=0), deviation, rtol=1e-3, atol=0)
    smooth = (planes[:, 1:] - planes[:, :-1]).square().mean() / planes.var((1, 2)).mean()
    assert smooth < 0.2  # 2 for white noise
    first, second = added[:, 0].flatten(1), added[:, 1].flatten(1)
    assert not torch.allclose(first, second, atol=0.01)


@pytest.mark.parametrize("constants, severity", EXTREMES)
def test_single_frequency_equals_a_loop(constants: str, severity: int) -> None:
    images = natural(3, 3, 7, 10)
    level = {"cifar": (0.6, 0.9, 1.2, 2.7, 3.0), "imagenet": (1.0, 1.5, 2.0, 4.5, 5.0)}[constants][severity - 1]
    out = run("single_frequency_greyscale", images, severity, constants)
    for image, corrupted, draw in zip(images, out, uniform(SEEDS, (4,)).tolist(), strict=True):
        one = -math.pi + 2 * math.pi * draw[0]
        other = -abs(one) + 2 * abs(one) * draw[1]
        right, down = (one, other) if draw[2] < 0.5 else (other, one)
        assert abs(other) <= abs(one) <= math.pi
        for y in range(7):
            for x in range(10):
                added = 196 * level / 10 / 255 * math.sin(x * right + y * down + 2 * math.pi * draw[3])
                expected = (image[:, y, x] + added).clamp(0, 1)
                torch.testing.assert_close(corrupted[:, y, x], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("constants, severity", EXTREMES)
def test_concentric_waves_equal_a_loop(constants: str, severity: int) -> None:
    height, width = 9, 12
    tenth = math.sqrt(9 * 12) / 10
    images = natural(3, 3, height, width)
    level = {"cifar": (1.5, 2.5, 4.0, 4.5, 5.0), "imagenet": (3.0, 5.0, 8.0, 9.0, 10.0)}[constants][severity - 1]
    out = run("concentric_sine_waves", images, severity, constants)
    for image, corrupted, draw in zip(images, out, (1 - uniform(SEEDS, (5,)).double()).tolist(), strict=True):
        x0, y0, waves, amplitude, ring = (
            width * draw[0],
            height * draw[1],
            10 * draw[2],
            tenth * draw[3],
            tenth * draw[4],
        )
        for y in range(height):
            for x in range(width):
                radius = math.hypot(x - x0, y - y0) + amplitude * math.sin(math.atan2(x - x0, y - y0) * waves)
                turns = radius / ring
                added = 128 * level / 10 / 255 * (turns - math.floor(turns) - 0.5)
                expected = (image[:, y, x] + added).clamp(0, 1)
                torch.testing.assert_close(corrupted[:, y, x], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("constants, severity", EXTREMES)
def test_plasma_equals_a_loop(constants: str, severity: int) -> None:
    height, width = 6, 9
    images = natural(3, 3, height, width)
    level = {"cifar": (2.1, 4.2, 5.6, 6.3, 7.0), "imagenet": (4.75, 7.0, 8.5, 9.25, 10.0)}[constants][severity - 1]
    strength = 64 * level / 10 / 255
    out = run("plasma_noise", images, severity, constants)
    seen = set()
    for image, corrupted, draw in zip(images, out, uniform(SEEDS, (4,)).double().tolist(), strict=True):
        time, swirls, sharpness = 6 * math.pi * draw[0], 4 + int(3 * draw[1]), 0.5 + 0.5 * draw[2]
        scale = (0.075 + 0.125 * draw[3]) * math.sqrt(height * width)
        seen.add(swirls)
        for row in range(height):
            for column in range(width):
                x, y = column / scale, row / scale
                frequency, slowness, size = 1.0, 1.0, 1.0
                for _ in range(swirls):
                    first = math.cos(y * frequency + time / slowness) / size
                    second = math.sin(x * frequency + time / slowness) / size
                    x, y = x + first - 0.3 * second, y + second + 0.3 * first
                    frequency, slowness, size = frequency * 1.93, slowness * 1.15, size * (2.25 - sharpness)
                noise = (math.sin(x - time), math.sin((x + y + math.sin(time)) / 2), math.sin(y + time))
                expected = ((1 - strength) * image[:, row, column] + strength * torch.tensor(noise)).clamp(0, 1)
                torch.testing.assert_close(corrupted[:, row, column], expected, atol=1e-5, rtol=0)
    assert len(seen) > 1  # images of a batch differ in the number of swirls


def perlin(x: float, y: float, gradients: list[list[float]], starts: list[int]) -> float:
    """Gradient noise as the textbook has it: blend four linear functions, first down, then across."""
    row, column = math.floor(y), math.floor(x)
    values = []
    for i in (0, 1):
        for j in (0, 1):
            down, across = gradients[(starts[(row + i) % 256] + column + j) % 256]
            values.append(down * (y - row - i) + across * (x - column - j))
    smooth_y, smooth_x = ((t - math.floor(t)) ** 2 * (3 - 2 * (t - math.floor(t))) for t in (y, x))
    left, right = (values[j] + smooth_y * (values[2 + j] - values[j]) for j in (0, 1))
    return 1.5 * (left + smooth_x * (right - left))


@pytest.mark.parametrize("height, width", ((9, 12), (33, 20), (27, 3)))
@pytest.mark.parametrize("severity, share", ((1, 0.23), (5, 0.44)))
def test_perlin_noise_equals_a_loop(height: int, width: int, severity: int, share: float) -> None:
    images = natural(3, 1, height, width)
    out = run("perlin_noise", images, severity, "imagenet")
    for image, corrupted, seed in zip(images, out, SEEDS.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        directions = 2 * torch.rand((256, 2), generator=generator) - 1
        gradients = (directions / directions.square().sum(1, keepdim=True).sqrt()).tolist()
        starts = torch.randperm(256, generator=generator).tolist()
        step = 7 / math.sqrt(height * width)
        for y in range(0, height, 3):
            for x in range(width):
                octaves = (abs(perlin(f * x * step, f * y * step, gradients, starts)) / f for f in (1, 2, 4, 8, 16))
                expected = (1 - share) * image[0, y, x].item() + share * min(1, (sum(octaves) + 1) / 2)
                assert corrupted[0, y, x].item() == pytest.approx(expected, abs=1e-4)


def test_perlin_noise_vanishes_on_the_lattice() -> None:
    out = run("perlin_noise", torch.zeros(3, 1, 7, 7), 5, "auto")  # a pixel is a cell
    torch.testing.assert_close(out, torch.full_like(out, 0.22), atol=LEVEL / 100, rtol=0)
