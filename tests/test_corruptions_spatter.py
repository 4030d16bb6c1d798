from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline import registry
from pipeline.corruptions._chamfer import UNIT, distance
from pipeline.corruptions._edges import canny
from pipeline.corruptions._grey import LUMA
from tests.corruptions_kit import LEVEL, corrupt, natural

MUD, WATER = np.array((63, 42, 20)) / 255, np.array((175, 238, 238)) / 255


def marks(shape: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.parametrize("shape", ((2, 4, 4), (3, 15, 40), (1, 50, 7)))
def test_distances_equal_the_shortest_of_all_ways(shape: tuple[int, ...]) -> None:
    marked = marks(shape, 0.02)
    ours = distance(marked, longest=20)
    rows, columns = np.indices(shape[1:])
    for row, image in enumerate(marked):
        best = np.full(shape[1:], 20 * UNIT)
        for down, right in np.argwhere(image):
            far, near = np.abs(rows - down), np.abs(columns - right)
            far, near = np.maximum(far, near), np.minimum(far, near)
            # Straight and knight's steps below a slope of 1/2, knight's and diagonal ones above.
            way = np.where(
                far >= 2 * near,
                143976 * near + UNIT * (far - 2 * near),
                143976 * (far - near) + 91750 * (2 * near - far),
            )
            best = np.minimum(best, way)
        np.testing.assert_array_equal(ours[row], best)


def test_distances_are_euclidean_to_two_percent() -> None:
    marked = np.zeros((1, 41, 41), dtype=bool)
    marked[0, 20, 20] = True
    exact = ndimage.distance_transform_edt(~marked[0]).clip(max=20)
    np.testing.assert_allclose(distance(marked, longest=20)[0] / UNIT, exact, rtol=0.02)
    assert (distance(~marked & marked, longest=20) == 20 * UNIT).all()


def canny_by_pixel(image: np.ndarray, low: int, high: int) -> np.ndarray:
    smooth, slope = [1, 2, 1], [-1, 0, 1]
    whole = image.astype(int)
    gx = ndimage.correlate(whole, np.outer(smooth, slope), mode="nearest")
    gy = ndimage.correlate(whole, np.outer(slope, smooth), mode="nearest")
    length = np.pad(np.abs(gx) + np.abs(gy), 1)
    ridge = np.zeros(image.shape, dtype=bool)
    for row, column in np.ndindex(*image.shape):
        here = length[row + 1, column + 1]
        angle = math.degrees(math.atan2(gy[row, column], gx[row, column])) % 180
        down, right = ((0, 1), (1, 1), (1, 0), (1, -1))[int((angle + 22.5) // 45) % 4]
        before = length[row + 1 - down, column + 1 - right]
        after = length[row + 1 + down, column + 1 + right]
        straight = down * right == 0
        ridge[row, column] = here > low and here > before and (here > after or (straight and here == after))
    strong = ridge & (length[1:-1, 1:-1] > high)
    return ndimage.binary_propagation(strong, structure=np.ones((3, 3)), mask=ridge)


def test_edges_equal_a_loop_over_pixels() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(4, 20, 33)), (0, 1.5, 1.5))
    images = (255 * (noise - noise.min()) / (noise.max() - noise.min())).astype(np.uint8)
    images[2][images[2] < 140] = 0
    found = canny(images, low=50, high=150)
    assert 0 < found.sum() < found.size / 3
    for image, ours in zip(images, found, strict=True):
        np.testing.assert_array_equal(ours, canny_by_pixel(image, 50, 150))


def test_edges_do_not_leak_between_the_images_of_a_batch() -> None:
    weak, strong = np.zeros((12, 12), dtype=np.uint8), np.zeros((12, 12), dtype=np.uint8)
    weak[:, 6:], strong[:, 6:] = 20, 200
    assert canny(weak[None], low=50, high=150).sum() == 0
    both = canny(np.stack((strong, weak, strong)), low=50, high=150)
    assert both[0].any() and both[2].any() and not both[1].any()


def relief_by_image(liquid: np.ndarray) -> np.ndarray:
    amount = (liquid.clip(0, 1) * np.float32(255)).astype(np.uint8)
    depth = distance(canny(amount[None], low=50, high=150), longest=20)[0]
    depth = ndimage.correlate(depth.astype(np.int64), np.ones((3, 3), dtype=int), mode="mirror") // (9 * UNIT)
    levels, counts = np.unique(depth, return_counts=True)
    if len(levels) > 1:
        raised = np.round((counts.cumsum() - counts[0]) * 255 / (depth.size - counts[0]))
        depth = raised[np.searchsorted(levels, depth)]
    light = ndimage.correlate(depth, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
    light = np.round(ndimage.correlate(light, np.ones((3, 3)), mode="mirror") / 9)
    return amount * light / max(1, (amount * light).max())


@pytest.mark.parametrize("size", ((8, 8), (40, 27)))
@pytest.mark.parametrize(
    "constants, severity, mean, deviation, sigma, threshold, last",
    [
        ("cifar", 1, 0.62, 0.1, 0.7, 0.7, 0.5),
        ("cifar", 3, 0.65, 0.3, 1.0, 0.69, 0.5),
        ("cifar", 5, 0.65, 0.1, 0.5, 0.68, 0.6),
        ("imagenet", 2, 0.65, 0.3, 3.0, 0.68, 0.6),
        ("imagenet", 5, 0.67, 0.4, 1.0, 0.65, 1.5),
    ],
)
def test_spatter_equals_one_image_at_a_time(
    size: tuple[int, int],
    constants: str,
    severity: int,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    last: float,
) -> None:
    images, seeds = natural(3, 3, *size), torch.arange(3) + 10
    out = registry.load("corruption", "spatter")(images=images, seeds=seeds, severity=severity, constants=constants)
    for row, seed in enumerate(seeds.tolist()):
        noise = mean + deviation * torch.randn((1, *size), generator=torch.Generator().manual_seed(seed))[0].numpy()
        liquid = ndimage.gaussian_filter(noise, sigma, mode="nearest")
        image = images[row].numpy()
        if severity < 4:
            light = last * relief_by_image(np.where(liquid < threshold, 0, liquid))
            theirs = image + light * WATER[:, None, None]
        else:
            cover = ndimage.gaussian_filter((liquid > threshold).astype(np.float32), last, mode="nearest")
            cover[cover < 0.8] = 0
            theirs = image * (1 - cover) + MUD[:, None, None] * cover
        difference = np.abs(out[row].numpy() - theirs.clip(0, 1)).max(0)
        assert (difference > LEVEL).mean() < 0.005  # single precision may decide a threshold the other way


def test_spatter_leaves_the_dry_lens_alone_and_covers_with_the_colour_of_mud() -> None:
    images = natural(32, 3, 4, 4)
    out = corrupt("spatter", images, 1, constants="cifar")
    dry = (out == images).all(-1).all(-1).all(-1)
    assert 0 < dry.sum() < 32  # a 4 x 4 lens often catches no drop
    images = torch.ones(4, 3, 32, 32)
    images[:, :, :16] = natural(4, 3, 16, 32)
    out = corrupt("spatter", images, 5)
    full = (out - torch.from_numpy(MUD).float().view(3, 1, 1)).abs().amax(1) < 1e-4
    assert full.any() and (out == images).all(1).float().mean() > 0.4


def test_spatter_on_greyscale_is_the_grey_value_of_spatter_in_colour() -> None:
    grey = natural(4, 1, 40, 27) * 0.4
    for severity in (3, 5):
        colour = corrupt("spatter", grey.expand(-1, 3, -1, -1).clone(), severity, constants="imagenet")
        weighted = (colour * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        torch.testing.assert_close(corrupt("spatter", grey, severity, constants="imagenet"), weighted)
