"""Orbits of images: exact where geometry is, inverse to each other, and what colours must keep."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.numerics.orbits import YIQ, Element, orbit, rotated, scaled, transformed, translated
from tests.oracles import grey_images

FAMILIES = ("rotation", "translation", "scale", "colour")
PADDINGS = ("reflection", "border", "zeros")


def smooth(side: int = 65) -> Tensor:
    """A bump off the centre that vanishes towards the border, (1, 2, side, side)."""
    place = torch.linspace(-1, 1, side, dtype=torch.float64)
    bump = torch.exp(-((place[:, None] - 0.15) ** 2 / 0.04 + (place + 0.1) ** 2 / 0.08))
    return torch.stack([bump, 0.5 * bump])[None]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_is_the_identity(family: str, shape: tuple[int, ...], padding: str) -> None:
    images = grey_images(2, shape, spread=0.5)
    for element in orbit(family, 0.0, shape[0]):
        torch.testing.assert_close(transformed(images, element, padding), images, rtol=0, atol=1e-13)
        if family != "colour":  # moves are exact to the last place of a float32
            assert torch.equal(transformed(images.float(), element, padding), images.float())


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_quarter_turn_is_rot90(side: int, padding: str) -> None:
    images = grey_images(3, (2, side, side), spread=0.5)
    for turns in (1, 2, 3, -1):
        wanted = torch.rot90(images, turns, dims=(-2, -1))
        torch.testing.assert_close(rotated(images, 90 * turns, padding=padding), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-2, 0), (0, 3), (1, -2)])
def test_whole_pixels_are_rolled_and_filled_in(down: int, right: int) -> None:
    images = grey_images(2, (1, 6, 8), spread=0.5)
    rows, columns = torch.arange(6) - down, torch.arange(8) - right
    outside = ((rows < 0) | (rows > 5))[:, None] | ((columns < 0) | (columns > 7))
    rolled = images.roll((down, right), dims=(-2, -1))
    wanted = {
        "zeros": rolled.masked_fill(outside, 0),
        "border": images[..., rows.clamp(0, 5)[:, None], columns.clamp(0, 7)],
        # reflected about the edge of the border pixels: -1 is 0, -2 is 1
        "reflection": images[
            ...,
            torch.where(rows < 0, -1 - rows, torch.where(rows > 5, 11 - rows, rows))[:, None],
            torch.where(columns < 0, -1 - columns, torch.where(columns > 7, 15 - columns, columns)),
        ],
    }
    for padding, expected in wanted.items():
        found = translated(images, down / 6, right / 8, padding=padding)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_half_a_pixel_is_the_mean_of_neighbours() -> None:
    images = grey_images(2, (1, 4, 8), spread=0.5)
    found = translated(images, 0.0, 0.5 / 8, padding="zeros")
    torch.testing.assert_close(found[..., 1:], (images[..., 1:] + images[..., :-1]) / 2)
    torch.testing.assert_close(found[..., 0], images[..., 0] / 2)


def test_enlarging_moves_the_offset_of_a_ramp() -> None:
    ramp = torch.linspace(-1, 1, 9, dtype=torch.float64).expand(1, 1, 9, 9)
    torch.testing.assert_close(scaled(ramp, 2.0, padding="border"), ramp / 2)
    shrunk = scaled(ramp, 0.5, padding="zeros")
    torch.testing.assert_close(shrunk[..., 3:6, 3:6], 2 * ramp[..., 3:6, 3:6])
    assert not shrunk[..., 0, :].any()


@pytest.mark.parametrize("family", ["rotation", "translation", "scale"])
def test_elements_undo_each_other(family: str) -> None:
    images = smooth()
    strength = {"rotation": 20.0, "translation": 5.5 / 65, "scale": 0.2}[family]
    elements = orbit(family, strength, 1)
    for one, other in zip(elements[::2], elements[1::2], strict=True):
        moved = transformed(images, one, "zeros")
        back = transformed(moved, other, "zeros")
        assert (moved - images).abs().max() > 0.15
        assert (back - images).abs().max() < 0.03  # two interpolations


def test_a_rotation_turns_counter_clockwise() -> None:
    images = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    images[..., 4, 7] = 1  # right of the centre
    found = rotated(images, 30, padding="zeros")[0, 0]
    place = torch.arange(9, dtype=torch.float64) - 4
    up, right = -(found * place[:, None]).sum() / found.sum(), (found * place).sum() / found.sum()
    assert math.degrees(math.atan2(float(up), float(right))) == pytest.approx(30, abs=3)


def test_colours_of_grey_images() -> None:
    images = grey_images(3, (1, 4, 4), spread=0.2)
    names = [element.transform for element in orbit("colour", 0.25, 1)]
    assert names == ["brightness"] * 2 + ["contrast"] * 2 + ["gamma"] * 2
    ways = {name: Element(name, (1.25,)) for name in names}
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(transformed(images, ways["brightness"], "zeros"), 1.25 * images)
    torch.testing.assert_close(transformed(images, ways["contrast"], "zeros"), mean + 1.25 * (images - mean))
    torch.testing.assert_close(transformed(images, ways["gamma"], "zeros"), images**1.25)
    assert transformed(images, Element("brightness", (9.0,)), "zeros").max() == 1


def test_hue_and_saturation_keep_the_luma_and_grey() -> None:
    images = grey_images(4, (3, 5, 5), spread=0.05)
    luma = torch.tensor(YIQ[0], dtype=torch.float64).view(3, 1, 1)
    assert luma.sum() == pytest.approx(1)
    for element in (Element("hue", (40.0,)), Element("saturation", (1.5,))):
        found = transformed(images, element, "zeros")
        torch.testing.assert_close((luma * found).sum(1), (luma * images).sum(1))
        assert (found - images).abs().max() > 0.01
        grey = images[:, :1].expand(-1, 3, -1, -1)
        torch.testing.assert_close(transformed(grey, element, "zeros"), grey)
    torch.testing.assert_close(
        transformed(images, Element("saturation", (0.0,)), "zeros")[:, 0], (luma * images).sum(1)
    )
    turned = images
    for _ in range(9):
        turned = transformed(turned, Element("hue", (40.0,)), "zeros")
    torch.testing.assert_close(turned, images)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_does_not_matter(family: str) -> None:
    images = grey_images(5, (3, 6, 7), spread=0.5).float()
    for element in orbit(family, 0.3, 3):
        whole = transformed(images, element, "reflection")
        single = torch.cat([transformed(image[None], element, "reflection") for image in images])
        torch.testing.assert_close(whole, single, rtol=0, atol=1e-7)
        assert whole.dtype == images.dtype
        assert not torch.equal(whole, images)
