"""Invariance: classifiers whose invariances are known, and deformations of a known size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.contracts import UserError, View
from pipeline.measurements import _diffeomorphisms as diffeomorphisms
from pipeline.measurements.invariance import COLUMNS, invariance
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip, low_pass
from pipeline.numerics.subspaces import dct_matrix
from tests.oracles import Affine, NanBeyond, affine, grey_images, network, predictions

SHAPE = (1, 8, 8)


def measured(model: nn.Module, images: Tensor, labels: Tensor | None = None, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"batch_size": 64, "seeds": 7 * torch.arange(len(images)) + 5, "box": UNIT}
    views: Sequence[View] = []
    labels = predictions(model, images) if labels is None else labels
    table = invariance(model=model, images=images, labels=labels, views=views, **(given | options))
    assert set(table) == {"row", *COLUMNS}
    assert len({len(column) for column in table.values()}) == 1
    return {name: np.array(column, dtype=object) for name, column in table.items()}


def share(table: Mapping[str, Any], column: str, **where: Any) -> float:
    keep = np.ones(len(table["row"]), dtype=bool)
    for name, value in where.items():
        keep &= table[name] == value
    assert keep.any()
    return float(np.mean(table[column][keep].astype(float)))


class MeanPixel(nn.Module):
    """Two classes by whether the mean pixel is above a half."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1) - 0.5
        return torch.stack([-mean, mean], dim=1)


class Ratio(nn.Module):
    """Two classes by whether the upper half is brighter than the lower: indifferent to brightness and to shifts."""

    def forward(self, images: Tensor) -> Tensor:
        upper, lower = images[..., :4, :].mean((1, 2, 3)), images[..., 4:, :].mean((1, 2, 3))
        return torch.stack([upper, lower], dim=1)


def test_every_element_has_its_row() -> None:
    images = grey_images(3, SHAPE, spread=0.4)
    table = measured(MeanPixel(), images)
    sizes = {"rotation": 3 * 2, "translation": 3 * 4, "scale": 2 * 2, "colour": 2 * 6, "diffeomorphism": 3 * 4}
    for family, size in sizes.items():
        assert (table["family"] == family).sum() == 3 * size
    keys = list(zip(table["row"], table["family"], table["strength"], table["element"], strict=True))
    assert len(set(keys)) == len(keys)
    assert (table["family"] == "colour").sum() == 3 * 12
    colour = measured(MeanPixel(), grey_images(2, (3, 8, 8)), families=["colour"])
    assert set(colour["transform"]) == {"brightness", "contrast", "gamma", "saturation", "hue"}
    assert len(colour["row"]) == 2 * 2 * 10


def test_the_mean_pixel_does_not_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.8 * torch.rand(40, *SHAPE, generator=generator, dtype=torch.float64)
    images += 0.4 * torch.rand(40, 1, 1, 1, generator=generator, dtype=torch.float64) - 0.1
    images = images.clamp(0, 1)
    table = measured(MeanPixel(), images, families=["rotation"], angles=[90.0, 180.0])
    assert share(table, "agrees") == 1
    assert max(table["change"]) < 1e-20
    table = measured(MeanPixel(), grey_images(40, SHAPE), families=["colour"])
    assert share(table, "agrees", transform="contrast") == 1  # keeps the mean where nothing is clipped
    assert share(table, "agrees", transform="brightness") < 0.9


def test_planted_invariances_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + 0.02 * torch.rand(20, *SHAPE, generator=generator, dtype=torch.float64)
    half = torch.arange(20) % 2  # the brighter half of each image
    images[half == 0, :, :4] += 0.2
    images[half == 1, :, 4:] += 0.2
    table = measured(Ratio(), images, half, angles=[180.0], colours=[0.5])
    for transform in ("brightness", "contrast", "gamma", "scale"):
        assert share(table, "agrees", transform=transform) == 1
    assert share(table, "correct", family="rotation") == 0
    assert share(table, "agrees", family="rotation") == 0
    wrong = measured(Ratio(), images, 1 - half, angles=[180.0], families=["rotation"])
    assert (share(wrong, "agrees"), share(wrong, "correct")) == (0, 1)


def test_numbers_of_a_row() -> None:
    images = grey_images(3, SHAPE, spread=0.2)
    model = affine(SHAPE, 3)
    table = measured(model, images, families=["colour"], colours=[0.25])
    row = int(np.flatnonzero((table["transform"] == "brightness") & (table["row"] == 1))[0])
    logits, clean = model(1.25 * images[1:2]), model(images[1:2])
    assert table["values"][row] == [1.25]
    assert table["prediction"][row] == int(logits.argmax())
    assert table["clean_prediction"][row] == int(clean.argmax())
    assert table["confidence"][row] == pytest.approx(float(logits.softmax(1).max()))
    assert table["distance"][row] == pytest.approx(0.25 * float(images[1].norm()))
    assert table["change"][row] == pytest.approx(float((logits - clean).square().sum()))
    assert table["noise_change"][row] is None
    # seeds grow with the rows, so the partner is the next row, and the first of the last
    for place, partner in ((0, 1), (1, 2), (2, 0)):
        mine = table["pair_change"][table["row"] == place]
        assert mine[0] == pytest.approx(float((model(images[place]) - model(images[partner])).square().sum()))
    assert measured(model, images[:1], families=["scale"])["pair_change"][0] is None


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_and_order_do_not_matter(batch_size: int) -> None:
    images, seeds = grey_images(7, (3, 8, 8), spread=0.4), torch.tensor([5, 99, 1, 40, 17, 63, 2])
    model = network((3, 8, 8), 4)
    labels = torch.arange(7) % 4
    whole = measured(model, images, labels, seeds=seeds)
    parts = measured(model, images, labels, seeds=seeds, batch_size=batch_size)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    mixed = measured(model, images[order], labels[order], seeds=seeds[order])
    names = ("row", "strength", "family", "element")
    place = {key: i for i, key in enumerate(zip(*(mixed[name] for name in names), strict=True))}
    back = order.argsort().tolist()
    match = [place[(back[row], *key)] for row, *key in zip(*(whole[name] for name in names), strict=True)]
    for name in COLUMNS:
        for other in (parts[name], mixed[name][match]):
            if name in ("confidence", "distance", "change", "noise_change", "pair_change"):
                known = whole[name] != None  # noqa: E711
                assert ((other != None) == known).all()  # noqa: E711
                np.testing.assert_allclose(whole[name][known].astype(float), other[known].astype(float), rtol=1e-6)
            else:
                assert whole[name].tolist() == other.tolist(), name
    few = measured(model, images, labels, seeds=seeds, samples=3)
    assert set(few["row"]) == {0, 1, 2}
    known = whole["row"] < 3
    np.testing.assert_allclose(few["change"].astype(float), whole["change"][known].astype(float), rtol=1e-6)


@pytest.mark.parametrize(("cut", "shape"), [(2, (12, 12)), (3, (9, 15)), (5, (20, 20))])
def test_deformations_have_the_size_that_the_law_says(cut: int, shape: tuple[int, int]) -> None:
    fields = diffeomorphisms.fields(torch.arange(500), 4, *shape, cut=cut)
    i = torch.arange(1, cut + 1, dtype=torch.float64)
    squares = i[:, None] ** 2 + i**2
    weights = (squares < (cut + 0.5) ** 2) / squares  # of the modes, variance T each
    sines = [torch.sin(math.pi * i * torch.linspace(0, 1, s, dtype=torch.float64)[:, None]).square() for s in shape]
    variance = diffeomorphisms.temperature(1, cut) * torch.einsum("yi,ij,xj->yx", sines[0], weights, sines[1])
    for axis, side in enumerate(shape):
        found = fields[:, :, axis].square().mean((0, 1)) / side**2
        torch.testing.assert_close(found.mean(), variance.mean(), rtol=0.06, atol=0)
        torch.testing.assert_close(found, variance, rtol=0.25, atol=1e-12)
    # the temperature law of the paper: its typical displacement, in pixels of a square image, is what was asked for
    typical = 20 * math.sqrt(math.pi * diffeomorphisms.temperature(0.07, cut) * math.log(cut)) / 2
    assert typical == pytest.approx(0.07 * 20)
    assert torch.equal(fields[3:5], diffeomorphisms.fields(torch.tensor([3, 4]), 4, *shape, cut=cut))


def test_distance_of_deformations_grows_with_their_strength() -> None:
    images = grey_images(20, (1, 16, 16), spread=0.5)
    table = measured(MeanPixel(), images, families=["diffeomorphism"], displacements=[0.01, 0.03, 0.1])
    means = [share(table, "distance", strength=s) for s in (0.01, 0.03, 0.1)]
    assert 0 < means[0] < means[1] < means[2]


def test_relative_stability_of_linear_functionals() -> None:
    """Deformed images keep to frequencies near their own, noise reaches all; the identity sees as much of both."""
    side = 16
    cosines = dct_matrix(side)
    low = torch.stack([torch.outer(cosines[i], cosines[j]).flatten() for i, j in ((0, 1), (1, 0), (1, 1))])
    high = torch.stack([torch.outer(cosines[i], cosines[j]).flatten() for i, j in ((12, 13), (13, 12), (14, 14))])
    coefficients = torch.zeros(60, side, side, dtype=torch.float64)
    coefficients[:, 4:8, 4:8] = torch.randn(60, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images = 0.5 + 0.02 * cosines.T @ coefficients @ cosines  # all energy in the middle frequencies
    stability = {}
    for name, weight in (("low", low), ("all", torch.eye(side * side).double()), ("high", high)):
        table = measured(
            Affine(weight, torch.zeros(len(weight)).double()),
            images[:, None],
            families=["diffeomorphism"],
            displacements=[0.03],
            draws=8,
        )
        change, noise = table["change"].astype(float), table["noise_change"].astype(float)
        stability[name] = float(change.mean() / noise.mean())
        if name == "all":  # the identity sees exactly the norm of the change, of both
            np.testing.assert_allclose(change, table["distance"].astype(float) ** 2, rtol=1e-9)
            np.testing.assert_allclose(noise, table["distance"].astype(float) ** 2, rtol=1e-9)
    assert stability["low"] < 0.2
    assert stability["high"] < 0.2
    assert stability["all"] == pytest.approx(1)


def test_noise_is_isotropic_and_no_copy_of_the_deformation() -> None:
    images = grey_images(200, SHAPE, spread=0.4)
    one = torch.zeros(2, 64, dtype=torch.float64)
    one[1, 27] = 1
    table = measured(Affine(one, torch.zeros(2).double()), images, families=["diffeomorphism"], displacements=[0.05])
    ratio = table["noise_change"].astype(float) / table["distance"].astype(float) ** 2
    assert ratio.mean() == pytest.approx(1 / 64, rel=0.15)


def test_flipped_data_are_transformed_as_pixels() -> None:
    pixels = grey_images(4, SHAPE, spread=0.4)
    model = network(SHAPE, 3)

    class Behind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(flip(images))
            return logits

    straight, flipped = measured(model, pixels), measured(Behind(), flip(pixels), box=Box(flipped=True))
    assert straight["prediction"].tolist() == flipped["prediction"].tolist()
    for name in ("change", "distance"):
        np.testing.assert_allclose(straight[name].astype(float), flipped[name].astype(float), rtol=1e-6, atol=1e-9)


def test_other_bounds_are_mapped_and_clipped_there() -> None:
    images = 4 * grey_images(4, SHAPE, spread=0.5) - 2
    model = network(SHAPE, 3)

    class Mapped(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            logits: Tensor = model(4 * values - 2)
            return logits

    wide, unit = measured(model, images, box=Box(-2, 2)), measured(Mapped(), (images + 2) / 4)
    assert wide["prediction"].tolist() == unit["prediction"].tolist()
    np.testing.assert_allclose(wide["distance"].astype(float), 4 * unit["distance"].astype(float), rtol=1e-9)
    low = low_pass(grey_images(2, SHAPE), 4)
    assert (measured(model, low, box=Box(-0.3, 1.3), families=["rotation"])["distance"] < 2).all()


def test_nan_logits_are_nulls() -> None:
    images = grey_images(2, SHAPE, spread=0.3)
    model = NanBeyond(network(SHAPE, 3), images[:1], 1e-6)
    table = measured(model, images, torch.zeros(2).long(), families=["rotation", "diffeomorphism"], angles=[180.0])
    assert not any(table["agrees"]) and not any(table["correct"])
    for name in ("confidence", "change", "noise_change", "pair_change"):
        assert all(value is None for value in table[name])


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 1, 1, 30), {}, "data of 1 x 30 values"),
        (torch.zeros(2, *SHAPE), {"box": Box(-math.inf, math.inf)}, "without bounds"),
        (torch.zeros(2, *SHAPE), {"families": []}, "no transform is left"),
        (torch.zeros(2, *SHAPE), {"displacements": [0.2]}, "displacements: given 0.2, which folds images; expected at"),
        (torch.zeros(2, *SHAPE), {"cut": 7}, "cut: given 7, expected at most 6"),
    ],
)
def test_mistakes_are_told_in_a_line(images: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        measured(MeanPixel(), images, torch.zeros(2).long(), **options)
    assert "\n" not in str(error.value)


def test_the_table_can_be_written(tmp_path: Any) -> None:
    table = measured(affine(SHAPE, 3), grey_images(3, SHAPE))
    columns = {name: table[name].tolist() for name in COLUMNS}
    store.write_table(tmp_path / "t.parquet", columns, COLUMNS, {})
