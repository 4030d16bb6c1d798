from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.sparsefool import sparsefool
from pipeline.contracts import UserError
from pipeline.numerics import norms
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.linear_solver import cross_plane, released_solver
from pipeline.numerics.passes import CountedModel
from tests.oracles import Constant, NanBeyond, affine, grey_images, network, predictions

SHAPE = (3, 5, 4)
IMAGES = grey_images(12, SHAPE, spread=0.4)
SEEDS = torch.arange(12)
CLOSE = {"rtol": 0, "atol": 1e-9}


def attack(model: nn.Module, images: Tensor = IMAGES, labels: Tensor | None = None, **options: Any) -> Tensor:
    labels = predictions(model, images) if labels is None else labels
    return sparsefool(model=model, images=images, labels=labels, seeds=torch.zeros_like(labels), **options)


def planes(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, some entries of which are on a bound, unit normals, some entries of which are zero, and the bounds."""
    generator = torch.Generator().manual_seed(seed)
    points = (1.4 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
    normal = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    normal[torch.rand(normal.shape, generator=generator) < 0.2] = 0
    return points, norms.unit(normal), torch.zeros_like(points), torch.ones_like(points)


def reachable(points: Tensor, normal: Tensor) -> Tensor:
    """What each entry can gain in the unit box, (n, c, h, w)."""
    return normal.abs() * torch.where(normal > 0, 1 - points, points)


def greedy(point: Tensor, normal: Tensor, gap: float) -> Tensor:
    """Plain loop over the entries of one image, the largest |normal| first."""
    moved, flat, left = point.flatten().clone(), normal.flatten(), gap
    for entry in flat.abs().argsort(descending=True).tolist():
        if left > 1e-12 and flat[entry] != 0:  # less is rounding
            before = moved[entry].item()
            moved[entry] = (moved[entry] + left / flat[entry]).clamp(0, 1)
            left -= (flat[entry] * (moved[entry] - before)).item()
    return moved.view_as(point)


def released_plane(point: Tensor, normal: Tensor, gap: float) -> Tensor:
    """The released solver on one image: step along the largest unused entry while the sign has not changed."""
    moved, flat = point.flatten().clone(), normal.flatten()
    start = moved.clone()
    left = flat.clone()
    value = -gap
    sign = (value > 0) - (value < 0)
    while (value > 0) - (value < 0) == sign and (left != 0).any():
        entry = int(left.abs().argmax())
        step = max(abs(value + 0.001 * sign) / left[entry].abs().item(), 1e-4)
        moved[entry] = (moved[entry] + step * left[entry].sign()).clamp(0, 1)
        left[entry] = 0
        value = (flat @ (moved - start)).item() - gap
    return moved.view_as(point)


def released(model: nn.Module, clean: Tensor, lam: float, candidates: int) -> Tensor:
    """The released attack on one image (1, c, h, w)."""

    def slope(point: Tensor, new: int, old: int) -> tuple[float, Tensor]:
        point = point.clone().requires_grad_(True)
        difference = model(point)[0, new] - model(point)[0, old]
        return difference.item(), torch.autograd.grad(difference, point)[0]

    label, point = int(model(clean).argmax()), clean
    for _ in range(20):
        first, *others = model(point)[0].argsort(descending=True)[:candidates].tolist()
        shift, new = torch.zeros_like(point), first
        for _ in range(50):
            value, way = min(
                (slope(point + shift, k, first) for k in others), key=lambda pair: abs(pair[0]) / pair[1].norm().item()
            )
            shift = shift + max(abs(value) / way.norm().item(), 1e-4) * way / way.norm()
            new = int(model(point + 1.02 * shift).argmax())
            if new != first:
                break
        normal = slope(point + shift, new, first)[1]
        normal = normal / normal.norm()
        point = released_plane(point, normal, lam * (normal * shift).sum().item())
        trial = (clean + 1.02 * (point - clean)).clamp(0, 1)
        if int(model(trial).argmax()) != label:
            break
    return trial


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.1])
def test_solver_is_the_greedy_loop(share: float) -> None:
    points, normal, low, high = planes(30, SHAPE)
    gap = share * reachable(points, normal).flatten(1).sum(dim=1)
    moved = cross_plane(points, normal, gap, low, high)
    expected = torch.stack([greedy(*row) for row in zip(points, normal, gap.tolist(), strict=True)])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)
    gained = (normal * (moved - points)).flatten(1).sum(dim=1)
    torch.testing.assert_close(gained, gap / max(share, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_solver_crosses_with_the_fewest_pixels(share: float) -> None:
    points, normal, low, high = planes(10, (2, 2, 3))
    gains = reachable(points, normal).sum(dim=1).flatten(1)
    gap = share * gains.sum(dim=1)
    moved = cross_plane(points, normal, gap, low, high, group="pixels")
    assert ((moved >= 0) & (moved <= 1)).all()
    torch.testing.assert_close((normal * (moved - points)).flatten(1).sum(dim=1), gap, rtol=0, atol=1e-12)
    for count, row, needed in zip(norms.l0_pixels(moved - points).tolist(), gains, gap, strict=True):
        sets = itertools.combinations(row.tolist(), count - 1)  # no smaller set of pixels reaches the plane
        assert max(sum(chosen) for chosen in sets) < needed


def test_released_solver_is_its_loop_on_both_sides_of_the_plane() -> None:
    points, normal, low, high = planes(40, SHAPE)
    whole = reachable(points, normal).flatten(1).sum(dim=1)
    for share in (0.2, 1.1, -1e-6, -0.01, -0.3):
        moved = released_solver(points, normal, share * whole, low, high, beta=0.001)
        rows = zip(points, normal, (share * whole).tolist(), strict=True)
        torch.testing.assert_close(moved, torch.stack([released_plane(*row) for row in rows]), rtol=0, atol=1e-9)


def test_affine_classifiers_are_crossed_in_one_round_as_the_greedy_loop_does() -> None:
    model = affine(SHAPE, 2)
    labels = predictions(model, IMAGES)
    normal = (model.weight[1 - labels] - model.weight[labels]).view_as(IMAGES)
    logits = model(IMAGES)
    gap = (logits.amax(dim=1) - logits.amin(dim=1)).tolist()
    optimum = torch.stack([greedy(*row) for row in zip(IMAGES, normal, gap, strict=True)])
    counted = CountedModel(model)
    found = attack(counted, labels=labels, lam=1.0, prune=0)
    torch.testing.assert_close(found, (IMAGES + 1.02 * (optimum - IMAGES)).clamp(0, 1), **CLOSE)
    assert torch.equal(norms.l0_entries(found - IMAGES), norms.l0_entries(optimum - IMAGES))
    assert crossed(model(found), labels).all()
    # the linearisation, DeepFool's end and the result; the first two take a gradient
    assert (counted.forward_passes, counted.backward_passes) == (12 * 3, 12 * 2)


def test_pruning_keeps_the_fewest_of_the_largest_effects() -> None:
    model = affine(SHAPE, 2)
    labels = predictions(model, IMAGES)
    normal = (model.weight[1 - labels] - model.weight[labels]).view_as(IMAGES)
    logits = model(IMAGES)
    gap = logits.amax(dim=1) - logits.amin(dim=1)
    whole, pruned = (attack(model, lam=4.0, prune=prune) for prune in (0, 20))
    effects = (normal * (whole - IMAGES)).sum(dim=1).flatten(1).sort(dim=1, descending=True).values
    needed = (effects.cumsum(dim=1) < gap[:, None]).sum(dim=1) + 1
    assert torch.equal(norms.l0_pixels(pruned - IMAGES), needed)
    assert (needed < norms.l0_pixels(whole - IMAGES)).any()
    assert ((pruned == whole) | (pruned == IMAGES)).all() and crossed(model(pruned), labels).all()


def test_larger_lambda_changes_more_in_fewer_rounds() -> None:
    model = affine(SHAPE, 4)
    sizes = [norms.l0_entries(attack(model, lam=lam, prune=0) - IMAGES) for lam in (1.0, 2.0, 4.0)]
    assert all((few <= more).all() for few, more in itertools.pairwise(sizes)) and (sizes[0] < sizes[2]).any()
    curved = network(SHAPE, 5)
    labels, passes = predictions(curved, IMAGES), []
    for lam in (1.0, 3.0):
        counted = CountedModel(curved)
        assert crossed(curved(attack(counted, labels=labels, lam=lam, prune=0)), labels).all()
        passes.append(counted.forward_passes)
    assert passes[0] > passes[1]


@pytest.mark.parametrize("options", [{}, {"prune": 0}, {"group": "pixels"}, {"mode": "official"}])
def test_batch_equals_singles_and_any_order(options: dict[str, Any]) -> None:
    model = network(SHAPE, 5)
    found = attack(model, **options)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attack(model, IMAGES[order], **options), found[order], **CLOSE)
    torch.testing.assert_close(torch.cat([attack(model, image[None], **options) for image in IMAGES]), found, **CLOSE)


@pytest.mark.parametrize(("lam", "candidates"), [(1.0, 10), (3.0, 10), (3.0, 3)])
def test_official_mode_is_the_released_loop(lam: float, candidates: int) -> None:
    model = network(SHAPE, 5)
    expected = torch.cat([released(model, image[None], lam, candidates) for image in IMAGES])
    torch.testing.assert_close(attack(model, lam=lam, candidates=candidates, mode="official"), expected, **CLOSE)


@pytest.mark.parametrize("shape", [SHAPE, (1, 8, 8)])
def test_fools_a_network_with_few_pixels(shape: tuple[int, ...]) -> None:
    model, images = network(shape, 5), grey_images(20, shape, spread=0.4)
    labels = predictions(model, images)
    counts = {}
    for name, options in {
        "official": {"mode": "official"},
        "plain": {"prune": 0},
        "pruned": {},
        "pixels": {"group": "pixels"},
    }.items():
        found = attack(model, images, **options)
        assert (predictions(model, found) != labels).all() and ((found >= 0) & (found <= 1)).all()
        counts[name] = norms.l0_pixels(found - images).double().mean()
    assert counts["pruned"] <= counts["plain"] <= 1.2 * counts["official"]
    assert counts["pixels"] <= counts["pruned"] < 0.3 * shape[1] * shape[2]


@pytest.mark.parametrize("mode", ["default", "official"])
def test_delta_bounds_every_entry_at_the_price_of_pixels(mode: str) -> None:
    model = network(SHAPE, 5)
    labels, sizes = predictions(model, IMAGES), []
    for delta in (None, 0.1):
        found = attack(model, delta=delta, mode=mode, prune=0)
        fooled = predictions(model, found) != labels
        assert ((found >= 0) & (found <= 1)).all() and fooled.sum() > 6
        assert torch.equal(found[~fooled], IMAGES[~fooled])
        assert delta is None or 0.09 < norms.linf(found - IMAGES).max() <= delta + 1e-12
        sizes.append(norms.l0_pixels(found - IMAGES)[fooled].double().mean())
    assert sizes[0] < sizes[1]
    assert torch.equal(attack(model, delta=1e-6, mode=mode, steps=2), IMAGES)


@pytest.mark.parametrize("mode", ["default", "official"])
def test_without_a_boundary_the_clean_image_comes_back(mode: str) -> None:
    assert torch.equal(attack(Constant([1.0, 0.0, 0.0]), mode=mode), IMAGES)
    model = affine(SHAPE, 3)
    image = IMAGES[predictions(model, IMAGES) != 0][:1]  # argmax of NaN logits is 0, another class
    assert torch.equal(attack(NanBeyond(model, image[0], 1e-3), image, mode=mode), image)


class Profile(nn.Module):
    """Two classes; the lead of the second is a function of half the sum of x - 1/2 over the entries."""

    def __init__(self, lead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lead = lead

    def forward(self, images: Tensor) -> Tensor:
        lead = self.lead((images - 0.5).flatten(1).sum(dim=1) / 2)
        return torch.stack((torch.zeros_like(lead), lead), dim=1)


def test_an_image_across_before_the_overshoot_is_taken() -> None:
    model = Profile(lambda t: torch.where((t > 0.3005) & (t < 0.3015), -1, t - 0.1))  # the overshoot goes to 0.301
    images = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    found = attack(model, images, prune=0)
    expected = torch.tensor([0, 0, 0.1, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found.flatten().sort().values - 0.5, expected, **CLOSE)


def test_a_normal_that_points_back_is_replaced_by_the_way() -> None:
    model = Profile(lambda t: t - 0.1 + torch.exp(-(((t - 0.1) / 0.01) ** 2)))  # falls at 0.102, where DeepFool ends
    images = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    found = attack(model, images, steps=1, lam=1.0)
    assert crossed(model(found), torch.tensor([0])).all() and norms.l0_pixels(found - images).tolist() == [1]


@pytest.mark.parametrize("box", [Box(0, 1, flipped=True), Box(-torch.inf, torch.inf)])
def test_boxes_without_sparse_pixels_are_refused(box: Box) -> None:
    with pytest.raises(UserError, match="sparsefool"):
        attack(network(SHAPE, 5), box=box)


def test_boxes_of_any_bounds() -> None:
    model, box = network(SHAPE, 5), Box(-1, 2)
    found = attack(model, box=box, prune=0)
    assert (predictions(model, found) != predictions(model, IMAGES)).all() and (box.excess(found) == 0).all()
    assert norms.l0_entries(found - IMAGES).sum() < norms.l0_entries(attack(model, prune=0) - IMAGES).sum()
    free = attack(model, box=Box(-torch.inf, torch.inf), delta=0.2)
    assert (norms.linf(free - IMAGES) <= 0.2 + 1e-12).all() and (UNIT.excess(free) > 0).any()


@pytest.mark.parametrize("mode", ["default", "official"])
def test_parameters_and_images_are_left_alone(mode: str) -> None:
    model, images = network(SHAPE, 5).requires_grad_(True), IMAGES.clone()
    found = attack(model, images, mode=mode)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad and torch.equal(images, IMAGES)
