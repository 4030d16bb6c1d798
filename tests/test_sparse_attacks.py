from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.sigma_zero import sigma_zero
from pipeline.attacks.sparse_rs import _blocks, _distinct, _share, sparse_rs
from pipeline.contracts import UserError
from pipeline.numerics import boundary, norms
from pipeline.numerics.box import Box
from pipeline.numerics.passes import CountedModel
from tests.oracles import Affine, Constant, NanBeyond, affine, grey_images, network, predictions

SHAPE = (2, 5, 4)
COUNT = 12
IMAGES = grey_images(COUNT, SHAPE, spread=0.4)
SEEDS = torch.arange(100, 100 + COUNT)
COUNTS = {"pixels": norms.l0_pixels, "entries": norms.l0_entries}
BOUNDLESS = [Box(0, 1, flipped=True), Box(-torch.inf, torch.inf), Box(0, torch.inf)]


def attack(name: str, model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, **options: object) -> Tensor:
    method: Callable[..., Tensor] = {"sigma_zero": sigma_zero, "sparse_rs": sparse_rs}[name]
    if name == "sparse_rs":
        options = {"epsilon": 4, "queries": 60, **options}
    return method(model=model, images=images, labels=labels, seeds=seeds, **options)


def deep(share: float = 0.3) -> Affine:
    """Two classes, the second of which is reached only by a share of what all entries can do together."""
    plain = affine(SHAPE, 2)
    weight = plain.weight[1] - plain.weight[0]
    reach = torch.where(weight > 0, weight * (1 - IMAGES.flatten(1)), -weight * IMAGES.flatten(1)).sum(dim=1)
    bias = -(IMAGES.flatten(1) @ weight + share * reach).mean()
    return Affine(torch.stack((0 * weight, weight)), torch.stack((0 * bias, bias)))


def fewest(model: Affine, count: str) -> Tensor:
    """Fewest pixels or entries of `IMAGES` that, moved to the best end of the box, reach the second class, (n,)."""
    weight, flat = model.weight[1], IMAGES.flatten(1)
    gains = torch.where(weight > 0, weight * (1 - flat), -weight * flat).view_as(IMAGES)
    gains = (gains.sum(dim=1) if count == "pixels" else gains).flatten(1)
    reached = gains.sort(dim=1, descending=True).values.cumsum(dim=1)
    return 1 + (reached <= -model(IMAGES)[:, 1:]).sum(dim=1)


@pytest.mark.parametrize("count", COUNTS)
def test_sigma_zero_comes_near_the_fewest_changes_of_an_affine_classifier(count: str) -> None:
    model = deep()
    least, labels = fewest(model, count), torch.zeros(COUNT, dtype=torch.int64)
    assert (predictions(model, IMAGES) == 0).all() and least.max() >= 3
    found = attack("sigma_zero", model, IMAGES, labels, SEEDS, count=count)
    assert (predictions(model, found) == 1).all() and ((found >= 0) & (found <= 1)).all()
    changes = COUNTS[count](found - IMAGES)
    assert (changes >= least).all() and (changes <= least + 1).all() and (changes == least).sum() > COUNT / 2


def test_sigma_zero_counts_what_it_is_asked_to_count() -> None:
    model = network((3, 6, 6), 5)
    images = grey_images(20, (3, 6, 6), spread=0.5)
    labels = predictions(model, images)
    entries, pixels = (
        attack("sigma_zero", model, images, labels, labels, count=count) - images for count in ("entries", "pixels")
    )
    assert (norms.l0_entries(entries) <= norms.l0_entries(pixels)).all()
    assert (norms.l0_pixels(pixels) <= norms.l0_pixels(entries)).all()
    assert norms.l0_pixels(pixels).sum() < norms.l0_pixels(entries).sum()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_scale_and_place_of_the_box_do_not_matter(name: str, count: str) -> None:
    model, labels = deep(), torch.zeros(COUNT, dtype=torch.int64)
    wide = Affine(model.weight / 4, model.bias + model.weight.sum(dim=1) / 4)
    plain = attack(name, model, IMAGES, labels, SEEDS, count=count)
    scaled = attack(name, wide, 4 * IMAGES - 1, labels, SEEDS, count=count, box=Box(-1, 3))
    torch.testing.assert_close((scaled + 1) / 4, plain, rtol=0, atol=1e-9)
    assert torch.equal(COUNTS[count](scaled - (4 * IMAGES - 1)), COUNTS[count](plain - IMAGES))


@pytest.mark.parametrize("count", COUNTS)
def test_sparse_rs_succeeds_where_the_budget_lets_it_and_nowhere_else(count: str) -> None:
    model, labels = deep(), torch.zeros(COUNT, dtype=torch.int64)
    least = fewest(model, count)
    for budget in range(1, int(least.max()) + 3):
        found = attack("sparse_rs", model, IMAGES, labels, SEEDS, epsilon=budget, queries=1500, count=count)
        fooled = predictions(model, found) == 1
        assert (COUNTS[count](found - IMAGES) <= budget).all()
        assert not fooled[least > budget].any()
        assert fooled[least + 1 < budget].all()
        assert fooled[least <= budget].double().mean() > 0.7 or not (least <= budget).any()


@pytest.mark.parametrize("count", COUNTS)
def test_sparse_rs_paints_with_the_ends_of_the_box_and_keeps_the_rest(count: str) -> None:
    model, labels = Constant([1.0, 0.0]), torch.zeros(COUNT, dtype=torch.int64)
    images, box = IMAGES.float() / 2 + 0.25, Box(0.125, 0.875)
    for queries, budget in itertools.product((1, 2, 40), (1, 3, 19, 20)):
        options = {"queries": queries, "epsilon": budget, "count": count, "box": box}
        found = attack("sparse_rs", model, images, labels, SEEDS, **options)
        assert found.dtype == torch.float32
        changed = found != images
        # nothing lowers the margin, so these are the first colours; no grey value of the images is at an end
        assert (COUNTS[count](found - images) == budget).all()
        assert torch.isin(found[changed], torch.tensor([box.low, box.high])).all()
        if count == "pixels":
            assert (changed.all(dim=1) == changed.any(dim=1)).all()


@pytest.mark.parametrize("budget", [1, 3, 10, 18, 19, 20])
def test_sparse_rs_keeps_to_its_budget_on_its_whole_way(budget: int) -> None:
    model = deep(2.0)  # out of reach, so that all queries are made
    labels = torch.zeros(COUNT, dtype=torch.int64)
    lowered = []
    for queries in (1, 30, 200):
        found = attack("sparse_rs", model, IMAGES, labels, SEEDS, epsilon=budget, queries=queries, alpha=0.9)
        assert (norms.l0_pixels(found - IMAGES) <= budget).all()
        assert torch.isin(found[found != IMAGES], torch.tensor([0.0, 1.0], dtype=torch.float64)).all()
        lowered.append(model(found)[:, 1])
    assert (lowered[0] < lowered[1]).sum() > COUNT / 2 and (lowered[0] <= lowered[1]).all()
    assert lowered[1].mean() < lowered[2].mean()
    if budget == 20:  # it ends near the best colours of all pixels
        best = (model.weight[1] > 0).double()[None]
        assert ((model(best)[:, 1] - lowered[2]) < 0.1 * (model(best)[:, 1] - lowered[0])).all()


def test_a_budget_beyond_the_image_given_as_a_number_is_the_whole_image() -> None:
    model = deep()
    labels = torch.zeros(COUNT, dtype=torch.int64)
    for count, whole in (("pixels", 20), ("entries", 40)):
        given = {"queries": 300, "count": count}
        found, exact = (attack("sparse_rs", model, IMAGES, labels, SEEDS, epsilon=k, **given) for k in (40.0, whole))
        assert torch.equal(found, exact)
        assert (predictions(model, found) == 1).all()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_batch_equals_singles_and_any_order(name: str, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.attacks.sparse_rs.BLOCK", 8)  # samples leave before, in and behind many blocks
    model = deep() if name == "sparse_rs" else network(SHAPE, 5)
    labels = predictions(model, IMAGES)

    def found(rows: Tensor) -> Tensor:
        options = {"epsilon": 4 if count == "pixels" else 5, "queries": 60} if name == "sparse_rs" else {}
        return attack(name, model, IMAGES[rows], labels[rows], SEEDS[rows], count=count, **options)

    everything = found(torch.arange(COUNT))
    fooled = predictions(model, everything) != labels
    assert fooled.any() and (name == "sigma_zero" or not fooled.all())
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(found(order), everything[order], **close)
    torch.testing.assert_close(torch.cat([found(torch.tensor([row])) for row in range(COUNT)]), everything, **close)
    assert torch.equal(found(torch.arange(COUNT)), everything)
    assert found(torch.arange(0)).shape == (0, *SHAPE)


def test_sparse_rs_draws_from_the_samples_own_seeds() -> None:
    model, labels = Constant([1.0, 0.0]), torch.zeros(COUNT, dtype=torch.int64)
    same = IMAGES[:1].expand(COUNT, *SHAPE)
    found = attack("sparse_rs", model, same, labels, SEEDS)
    other = attack("sparse_rs", model, same, labels, SEEDS + 1000)
    assert not (found == other).flatten(1).all(dim=1).any()
    assert all(not torch.equal(found[a], found[b]) for a, b in itertools.combinations(range(COUNT), 2))


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10])
def test_distinct_numbers_are_distinct_and_uniform(count: int) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(40)]
    drawn = _distinct(generators, 100, count, 10)  # Floyd's algorithm up to 3, the largest keys beyond
    assert drawn.shape == (40, 100, count)
    ordered = drawn.sort(dim=2).values
    assert (ordered.diff(dim=2) > 0).all() and ordered.min() >= 0 and ordered.max() <= 9
    pairs = torch.zeros(10, 10).index_put_(
        (ordered[..., 0].flatten(), ordered[..., -1].flatten()), torch.ones(4000), accumulate=True
    )
    if count == 2:  # all 45 pairs alike: 89 of each, give or take five standard deviations
        assert ((pairs[torch.ones(10, 10).triu(1) > 0] - 4000 / 45).abs() < 5 * (4000 / 45) ** 0.5).all()
    often = torch.bincount(drawn.flatten(), minlength=10) / 4000
    assert ((often - count / 10).abs() <= 5 * (count / 10 * (1 - count / 10) / 4000) ** 0.5).all()


def test_schedule_of_the_paper_stretched_over_the_queries() -> None:
    ends = {1: 2, 50: 2, 51: 4, 200: 4, 201: 5, 501: 6, 1001: 8, 2001: 10, 4001: 12, 6001: 15, 8000: 15, 8001: 20}
    for query, divisor in ends.items():
        assert _share(query, 10_000, 0.3) == pytest.approx(0.3 / divisor)
    assert [round(0.3 / _share(query, 100, 0.3)) for query in (1, 2, 3, 9, 99)] == [4, 4, 5, 6, 20]
    for queries, budget, free in ((1, 5, 3), (1000, 150, 900), (77, 3000, 2)):
        blocks = list(_blocks(queries, budget, free, 0.3))
        assert blocks[0] == (1, budget, 0)
        moved = [size for block, size, _ in blocks[1:] for _ in range(block)]
        assert moved == [max(1, int(_share(query, queries, 0.3) * budget)) for query in range(1, queries)]
        assert all(
            swapped == min(size, free) and block * size <= max(1024, size) for block, size, swapped in blocks[1:]
        )


def test_passes_are_as_many_as_said() -> None:
    labels = torch.zeros(COUNT, dtype=torch.int64)
    counted = CountedModel(Constant([1.0, 0.0]))
    attack("sparse_rs", counted, IMAGES, labels, SEEDS, queries=37)
    assert (counted.forward_passes, counted.backward_passes) == (COUNT * 37, 0)
    counted = CountedModel(Constant([0.0, 1.0]))  # misclassified at once
    attack("sparse_rs", counted, IMAGES, labels, SEEDS, queries=37)
    assert counted.forward_passes == COUNT
    counted = CountedModel(Constant([1.0, 0.0]))
    attack("sigma_zero", counted, IMAGES, labels, SEEDS, steps=7)
    assert (counted.forward_passes, counted.backward_passes) == (COUNT * 8, COUNT * 7)
    counted = CountedModel(deep(0.001))  # one entry is enough for most images, and nothing is below it
    found = attack("sigma_zero", counted, IMAGES, predictions(deep(0.001), IMAGES), SEEDS)
    assert (norms.l0_entries(found - IMAGES) == 1).sum() > COUNT / 2
    assert counted.forward_passes < COUNT * 60


@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [torch.nan] * 3, [1.0, torch.nan, 0.0]])
@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_models_without_gradients_or_with_nan_never_count_as_fooled(name: str, logits: list[float]) -> None:
    model, labels = Constant(logits), torch.zeros(COUNT, dtype=torch.int64)
    found = attack(name, model, IMAGES, labels, SEEDS)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.equal(found, IMAGES) or name == "sparse_rs"
    assert (norms.l0_pixels(found - IMAGES) <= 4).all()


@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_points_with_nan_logits_are_no_success(name: str) -> None:
    image, labels = IMAGES[:1], torch.zeros(1, dtype=torch.int64)
    broken = NanBeyond(deep(), image[0], 0.2)
    found = attack(name, broken, image, labels, SEEDS[:1])
    assert found.isfinite().all() and not boundary.crossed(broken(found), labels).any()


class Hiccup(nn.Module):
    """Another model's logits, but NaN in its first call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.model(images) * (torch.nan if self.calls == 1 else 1)


@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_a_search_goes_on_behind_a_broken_evaluation(name: str) -> None:
    labels = torch.zeros(COUNT, dtype=torch.int64)
    found = attack(name, Hiccup(deep()), IMAGES, labels, SEEDS, **({"epsilon": 12} if name == "sparse_rs" else {}))
    assert (predictions(deep(), found) == 1).all()


@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_images_of_ends_of_the_box_in_single_precision(name: str) -> None:
    model = network(SHAPE, 5).float()
    images = (grey_images(30, SHAPE, spread=0.5) > 0.5).float()
    labels = predictions(model, images)
    found = attack(name, model, images, labels, torch.arange(30))
    assert found.dtype == torch.float32 and ((found >= 0) & (found <= 1)).all()
    assert (predictions(model, found) != labels).double().mean() > 0.8
    assert not torch.equal(found, images)


@pytest.mark.parametrize("box", BOUNDLESS)
@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_data_without_pixels_or_ends_are_refused(name: str, box: Box) -> None:
    with pytest.raises(UserError, match=f"{name}: given flipped or unbounded data, expected"):
        attack(name, deep(), IMAGES, SEEDS, SEEDS, box=box)


@pytest.mark.parametrize("name", ["sigma_zero", "sparse_rs"])
def test_parameters_images_and_the_global_generator_stay_as_they_are(name: str) -> None:
    model = network(SHAPE, 5).requires_grad_(True)
    labels, before, state = predictions(model, IMAGES), IMAGES.clone(), torch.get_rng_state()
    found = attack(name, model, IMAGES, labels, SEEDS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad and torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)
