from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import registry
from pipeline.corruptions._frost_panes import PANES, SIDE, panes
from pipeline.corruptions._grey import LUMA
from pipeline.corruptions._plasma import heights
from tests.corruptions_kit import LEVEL, corrupt, natural

NAMES = ("snow", "frost", "fog", "spatter")
LISTS = ("cifar", "imagenet")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ((4, 4), (5, 9), (70, 33)))
@pytest.mark.parametrize("channels", (1, 3))
def test_any_size_and_any_batch(name: str, size: tuple[int, int], channels: int) -> None:
    function = registry.load("corruption", name)
    images, seeds = natural(4, channels, *size), torch.arange(4) * 31 + 1
    before, order = images.clone(), torch.tensor([2, 0, 3])
    for severity in range(1, 6):
        for constants in LISTS:
            whole = function(images=images, seeds=seeds, severity=severity, constants=constants)
            assert whole.shape == images.shape and whole.dtype == torch.float32
            assert whole.isfinite().all() and whole.min() >= 0 and whole.max() <= 1
            part = function(images=images[order], seeds=seeds[order], severity=severity, constants=constants)
            assert torch.equal(part, whole[order])
            single = function(images=images[1:2], seeds=seeds[1:2], severity=severity, constants=constants)
            assert torch.equal(single, whole[1:2])
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides(name: str) -> None:
    images, seeds = torch.full((3, 3, 32, 32), 0.4), torch.tensor([5, 6, 5])
    out = registry.load("corruption", name)(images=images, seeds=seeds, severity=3)
    assert torch.equal(out[0], out[2]) and not torch.equal(out[0], out[1])


def diamond_square(draws: list[float], size: int, decay: float) -> np.ndarray:
    """The fractal point by point, on a torus."""
    height, draw = np.zeros((size, size)), iter(draws)
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2

        def raised(row: int, column: int, reach: list[tuple[int, int]], amplitude: float = amplitude) -> None:
            near = [height[(row + down) % size, (column + right) % size] for down, right in reach]
            height[row, column] = np.mean(near) + amplitude * (2 * next(draw) - 1)

        square = [(down, right) for down in (-half, half) for right in (-half, half)]
        diamond = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for first_row, first_column, reach in ((half, half, square), (0, half, diamond), (half, 0, diamond)):
            for row in range(first_row, size, step):
                for column in range(first_column, size, step):
                    raised(row, column, reach)
        step, amplitude = half, amplitude / decay**2
    height -= height.min()
    return height / height.max()


@pytest.mark.parametrize("size, map_size", [((4, 4), 4), ((8, 8), 8), ((20, 12), 32), ((32, 32), 32)])
def test_fog_equals_a_point_by_point_fractal(size: tuple[int, int], map_size: int) -> None:
    images = natural(2, 3, *size)
    seeds = torch.tensor([3, 4])
    for constants, thickness, decay in (("cifar", 0.75, 2.5), ("imagenet", 2.5, 1.7)):
        out = registry.load("corruption", "fog")(images=images, seeds=seeds, severity=3, constants=constants)
        for row, seed in enumerate(seeds.tolist()):
            draws = torch.rand(map_size**2 - 1, generator=generator(seed)).tolist()
            density = diamond_square(draws, map_size, decay)[: size[0], : size[1]]
            largest = images[row].max().item()
            theirs = (images[row].double().numpy() + thickness * density) * largest / (largest + thickness)
            np.testing.assert_allclose(out[row].numpy(), theirs, atol=1e-5)


def test_fractals_fill_the_range_and_get_rougher_as_the_decay_falls() -> None:
    seeds = torch.arange(64)
    smooth, rough = heights(seeds, 32, 3.0), heights(seeds, 32, 1.4)
    for maps in (smooth, rough):
        assert maps.amin((1, 2)).eq(0).all() and maps.amax((1, 2)).eq(1).all()
    assert rough.diff(dim=1).square().mean() > 5 * smooth.diff(dim=1).square().mean()


def smeared(layer: np.ndarray, angle: float, radius: int, sigma: float) -> np.ndarray:
    """Motion blur pixel by pixel."""
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    out, (height, width) = np.zeros_like(layer), layer.shape
    for row in range(height):
        for column in range(width):
            for i, weight in enumerate(weights):
                down = min(max(row + math.ceil(i * sine - 0.5), 0), height - 1)
                right = min(max(column + math.ceil(i * cosine - 0.5), 0), width - 1)
                out[row, column] += weight / sum(weights) * layer[down, right]
    return out


def test_snow_equals_one_image_at_a_time() -> None:
    images, seeds = natural(2, 3, 24, 24), torch.tensor([1, 2])
    published = {
        ("cifar", 3): (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        ("imagenet", 3): (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    }
    for (constants, severity), (mean, deviation, zoom, threshold, radius, sigma, kept) in published.items():
        out = registry.load("corruption", "snow")(images=images, seeds=seeds, severity=severity, constants=constants)
        for row, seed in enumerate(seeds.tolist()):
            drawn, cells = generator(seed), math.ceil(24 / zoom)
            angle = -135 + 90 * torch.rand(1, generator=drawn).item()
            noise = mean + deviation * torch.randn(cells * cells, generator=drawn).view(cells, cells).double().numpy()
            large = ndimage.zoom(noise, zoom, order=1)
            trim = (len(large) - 24) // 2
            flakes = large[trim : trim + 24, trim : trim + 24]
            flakes = np.floor(np.where(flakes < threshold, 0, flakes).clip(0, 1) * 255)
            flakes = np.floor(np.round(257 * smeared(flakes, angle, radius, sigma)) / 257) / 255
            image = images[row].double().numpy()
            white = np.maximum(image, np.tensordot(LUMA, image, 1) * 1.5 + 0.5)
            theirs = (kept * image + (1 - kept) * white + flakes + np.rot90(flakes, 2)).clip(0, 1)
            difference = np.abs(out[row].numpy() - theirs)
            assert difference.max() < 2.01 * LEVEL  # each of the two layers is cut to whole levels
            assert (difference > 1e-5).mean() < 0.02


def test_snow_falls_on_black_greyscale_images() -> None:
    out = corrupt("snow", torch.zeros(8, 1, 32, 32), 1)
    assert out.min().item() == pytest.approx(0.05 * 0.5) and out.max() > 0.3
    torch.testing.assert_close(out, out.flip(-2, -1))  # the second layer is the first, turned


def test_panes_have_the_figures_of_their_photographs() -> None:
    levels = panes()[..., :3].double() / 255
    assert levels.shape == (5, SIDE, SIDE, 3)
    for pane, figures in zip(levels, PANES, strict=True):
        torch.testing.assert_close(pane.mean((0, 1)).float(), torch.tensor(figures.colour), atol=0.01, rtol=0)
        torch.testing.assert_close(pane.std((0, 1)).float(), torch.tensor(figures.spread), atol=0, rtol=0.15)
        assert pane[..., 2].mean() > pane[..., 0].mean()  # ice is bluish
        grey = (pane * torch.tensor(LUMA, dtype=torch.float64)).sum(-1)
        seam = (grey[0] - grey[-1]).square().mean() + (grey[:, 0] - grey[:, -1]).square().mean()
        inside = grey.diff(dim=0).square().mean() + grey.diff(dim=1).square().mean()
        assert 0.6 < seam / inside < 1.6  # borders join
        power = np.abs(np.fft.fft2(grey.numpy() - grey.mean().item())) ** 2
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE))) * 224
        octaves = [np.log2(power[(radius > k / 1.2) & (radius < k * 1.2)].mean()) for k in (4, 8, 16, 32, 64)]
        np.testing.assert_allclose(np.subtract(octaves, octaves[1]), figures.power[2:7], atol=0.6)


def test_frost_adds_a_random_piece_of_a_pane() -> None:
    sheets = panes()[..., :3].permute(0, 3, 1, 2).float() / 255
    black = torch.zeros(40, 3, 20, 12)
    found = set()
    function = registry.load("corruption", "frost")
    near = function(images=black, seeds=torch.arange(40), severity=2, constants="imagenet") / 0.6
    far = function(images=black, seeds=torch.arange(40), severity=2, constants="cifar") / 0.3
    for piece, apart in zip(near, far, strict=True):
        score = (sheets - piece[:, :1, :1]).abs().amax(1) + (sheets.roll(-7, -1) - piece[:, :1, 7:8]).abs().amax(1)
        for pane, top, left in (score < 1e-4).nonzero().tolist():
            rows, columns = (torch.arange(start, start + size) % SIDE for start, size in ((top, 20), (left, 12)))
            if torch.allclose(sheets[pane][:, rows[:, None], columns], piece, atol=1e-5):
                rows, columns = (torch.arange(20) * 5 + top) % SIDE, (torch.arange(12) * 5 + left) % SIDE
                torch.testing.assert_close(sheets[pane][:, rows[:, None], columns], apart)
                found.add((pane, top, left))
    assert len(found) == 40 and {pane for pane, _, _ in found} == set(range(5))


def test_frost_mixes_by_the_published_shares() -> None:
    function, seeds = registry.load("corruption", "frost"), torch.arange(4)
    image = natural(4, 1, 16, 16) * 0.3  # dark enough to stay below 1
    for constants, shares, ice in (
        ("cifar", (1, 1, 0.9, 0.85, 0.75), (0.2, 0.3, 0.4, 0.4, 0.45)),
        ("imagenet", (1, 0.8, 0.7, 0.65, 0.6), (0.4, 0.6, 0.7, 0.7, 0.75)),
    ):
        piece = function(images=torch.zeros_like(image), seeds=seeds, severity=2, constants=constants) / ice[1]
        for severity in range(1, 6):
            out = function(images=image, seeds=seeds, severity=severity, constants=constants)
            torch.testing.assert_close(out, shares[severity - 1] * image + ice[severity - 1] * piece)


@pytest.mark.parametrize("constants", LISTS)
@pytest.mark.parametrize(
    "name, groups", [("snow", ((1, 2, 3, 4, 5),)), ("fog", ((1, 2, 3), (4, 5))), ("spatter", ((1, 3), (4, 5)))]
)
def test_the_change_grows_with_severity(name: str, groups: tuple[tuple[int, ...], ...], constants: str) -> None:
    function = registry.load("corruption", name)
    images = natural(64, 3, 64, 64) * torch.linspace(0.3, 1, 64).view(-1, 1, 1, 1)
    for group in groups:
        levels = (function(images=images, seeds=torch.arange(64), severity=s, constants=constants) for s in group)
        change = [(level - images).square().mean().item() for level in levels]
        assert change == sorted(set(change)) and change[0] > 0
