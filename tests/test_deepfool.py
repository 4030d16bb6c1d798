"""DeepFool in l2, linf and its official mode, SuperDeepFool, and the geometry below them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks import descent
from pipeline.attacks.deepfool import deepfool
from pipeline.attacks.superdeepfool import superdeepfool
from pipeline.contracts import UserError
from pipeline.numerics import boundary, norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.passes import CountedModel
from tests.oracles import Affine, Constant, NanBeyond, Rescaled, affine, grey_images, margins, network, predictions

SHAPE = (2, 5, 4)
IMAGES = grey_images(12, SHAPE)
SEEDS = torch.arange(12)
BLACK_AND_WHITE = (grey_images(40, SHAPE) > 0.5).double()
FLIPPED = Box(0, 1, flipped=True)
ANYWHERE = Box(-torch.inf, torch.inf)
ORDER = {"l2": 2.0, "linf": torch.inf}
Attack = Callable[..., Tensor]


class OnFlipped(nn.Module):
    """Says of flipped images what another model says of the images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(flip(images))
        return logits


class Ellipse(nn.Module):
    """Two classes on the plane: inside and outside of (x / a)^2 + (y / b)^2 = 1."""

    def __init__(self, axes: tuple[float, float]) -> None:
        super().__init__()
        self.axes = torch.tensor(axes).double()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        outside = (images.flatten(1) / self.axes).square().sum(dim=1) - 1
        return torch.stack((torch.zeros_like(outside), outside), dim=1)

    def distance(self, images: Tensor) -> Tensor:
        angle = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
        curve = self.axes * torch.stack((angle.cos(), angle.sin()), dim=1)
        return torch.cdist(images.flatten(1), curve).amin(dim=1)


def attacked(attack: Attack, model: nn.Module, images: Tensor, **options: object) -> Tensor:
    labels = predictions(model, images)
    return attack(model=model, images=images, labels=labels, seeds=torch.arange(len(images)), **options)


def in_linf(**context: object) -> Tensor:
    return deepfool(**context, norm="linf")  # type: ignore[arg-type]


def official(**context: object) -> Tensor:
    return deepfool(**context, mode="official")  # type: ignore[arg-type]


ATTACKS = [deepfool, in_linf, official, superdeepfool]


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("spread", [0.1, 8.0])
def test_affine_classifiers_without_bounds_meet_the_closed_form(norm: str, spread: float) -> None:
    model, images = affine(SHAPE, 4), grey_images(12, SHAPE, spread=spread)
    expected = margins(model, images, ORDER[norm])
    exact = attacked(deepfool, model, images, norm=norm, box=ANYWHERE, bisections=25)
    torch.testing.assert_close(norms.length(exact - images, norm), expected, rtol=1e-7, atol=0)
    beyond = attacked(deepfool, model, images, norm=norm, box=ANYWHERE, bisections=0, overshoot=0.05)
    torch.testing.assert_close(norms.length(beyond - images, norm), 1.05 * expected, rtol=1e-9, atol=0)
    assert (predictions(model, exact) != predictions(model, images)).all()


def test_superdeepfool_meets_the_closed_form_of_affine_classifiers() -> None:
    model, images = affine(SHAPE, 4), grey_images(12, SHAPE, spread=8)
    found = attacked(superdeepfool, model, images, box=ANYWHERE, bisections=25)
    torch.testing.assert_close(norms.l2(found - images), margins(model, images), rtol=1e-7, atol=0)


@pytest.mark.parametrize(("attack", "norm"), [(deepfool, "l2"), (in_linf, "linf"), (superdeepfool, "l2")])
@pytest.mark.parametrize("box", [UNIT, Box(-1, 2.5)])
def test_two_affine_classes_in_a_box_meet_the_constrained_minimum(attack: Attack, norm: str, box: Box) -> None:
    model = affine(SHAPE, 2)
    images = box.low + (box.high - box.low) * BLACK_AND_WHITE
    labels = predictions(model, images)
    normal = (model.weight[1 - labels] - model.weight[labels]).view_as(images)
    direction = normal.sign() if norm == "linf" else normal
    low, high = torch.zeros(40).double(), torch.full((40,), 1e3).double()
    for _ in range(80):  # the nearest point is clip(x + t direction), with the t at which the classes tie
        middle = (low + high) / 2
        over = predictions(model, box.clip(images + norms.per_sample(middle, images) * direction)) != labels
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    nearest = box.clip(images + norms.per_sample(high, images) * direction)
    found = attacked(attack, model, images, box=box, bisections=20, overshoot=1e-4)
    expected = norms.length(nearest - images, norm)
    torch.testing.assert_close(norms.length(found - images, norm), expected, rtol=1e-4, atol=0)
    assert (box.excess(found) == 0).all() and (predictions(model, found) != labels).all()


@pytest.mark.parametrize("attack", [deepfool, in_linf, superdeepfool])
def test_black_and_white_images_are_fooled_inside_the_box(attack: Attack) -> None:
    model = network(SHAPE, 5)
    found = attacked(attack, model, BLACK_AND_WHITE)
    assert (UNIT.excess(found) == 0).all()
    assert (predictions(model, found) != predictions(model, BLACK_AND_WHITE)).all()


def test_linf_is_smaller_in_linf_and_larger_in_l2() -> None:
    model = network(SHAPE, 5)
    euclidean, largest = attacked(deepfool, model, IMAGES) - IMAGES, attacked(in_linf, model, IMAGES) - IMAGES
    assert (norms.linf(largest) < norms.linf(euclidean)).all() and (norms.l2(largest) > norms.l2(euclidean)).all()


def restated(model: nn.Module, image: Tensor, steps: int, overshoot: float, classes: int) -> Tensor:
    """The released DeepFool, one image at a time, every gradient on its own."""
    order = model(image[None])[0].argsort(descending=True)[:classes].tolist()
    total, point = torch.zeros_like(image), image
    for _ in range(steps):
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], point)
        logits = model(point[None])[0]
        if int(logits.argmax()) != order[0]:
            break
        shortest = torch.inf
        for rival in order[1:]:
            gradient = jacobian[rival] - jacobian[order[0]]
            distance = float((logits[rival] - logits[order[0]]).abs() / gradient.norm())
            if distance < shortest:
                shortest, direction = distance, gradient / gradient.norm()
        total = total + (shortest + 1e-4) * direction
        point = image + (1 + overshoot) * total
    return point


@pytest.mark.parametrize(("steps", "overshoot", "candidates"), [(50, 0.02, 10), (50, 0.3, 3), (1, 0.0, 2)])
def test_official_mode_is_the_released_code(steps: int, overshoot: float, candidates: int) -> None:
    model, images = network(SHAPE, 7), grey_images(12, SHAPE, spread=0.5)
    options = {"steps": steps, "overshoot": overshoot, "candidates": candidates}
    found = attacked(official, model, images, **options)
    expected = torch.stack([restated(model, image, steps, overshoot, candidates) for image in images])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    fooled = predictions(model, found) != predictions(model, images)
    assert fooled.all() if steps > 1 else not fooled.all()  # what does not fool is handed back as it stands
    assert (UNIT.excess(found) > 0).any() or steps == 1  # it knows no box


def test_official_mode_refuses_what_the_released_code_does_not_know() -> None:
    with pytest.raises(UserError, match="norm linf"):
        attacked(official, affine(SHAPE, 3), IMAGES, norm="linf")
    with pytest.raises(UserError, match="candidates: 1"):
        attacked(official, affine(SHAPE, 3), IMAGES, candidates=1)


@pytest.mark.parametrize("attack", [deepfool, in_linf, superdeepfool])
def test_rivals_passed_over_change_nothing_and_save_passes(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    images = grey_images(60, SHAPE, spread=0.5)
    sparing, thorough = CountedModel(network(SHAPE, 10)), CountedModel(network(SHAPE, 10))
    found = attacked(attack, sparing, images, overshoot=0.002)
    monkeypatch.setattr(descent, "GROWTH", 1e30)
    monkeypatch.setattr(descent, "SPREAD", 1e30)
    monkeypatch.setattr(descent, "MOST", 9)
    torch.testing.assert_close(attacked(attack, thorough, images, overshoot=0.002), found, rtol=0, atol=1e-12)
    assert sparing.backward_passes < 0.8 * thorough.backward_passes
    assert sparing.forward_passes < 1.1 * thorough.forward_passes


def test_rivals_without_a_gradient_do_not_count_among_those_looked_at() -> None:
    class Flat(nn.Module):
        """All rivals but the farthest are constant."""

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)[:, :1]
            return torch.cat((torch.zeros_like(x).expand(-1, 5) - torch.arange(5) / 10, x - 0.75), dim=1)

    image = torch.zeros(1, 1, 1, 1).double()
    found = attacked(deepfool, Flat().eval(), image, bisections=20)
    torch.testing.assert_close(found, torch.full_like(image, 0.75), rtol=0, atol=1e-5)


@pytest.mark.parametrize("attack", [deepfool, in_linf, superdeepfool])
def test_parts_of_a_batch_and_passes_for_all_change_nothing(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    images, model = grey_images(60, SHAPE, spread=0.5), network(SHAPE, 10)
    labels, expected = predictions(model, images), attacked(attack, model, images)
    labels[::5] = (labels[::5] + 1) % 10  # these are fooled already
    expected[::5] = images[::5]
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    for shared in (0, descent.MOST):
        monkeypatch.setattr(descent, "WIDTH", 7)
        monkeypatch.setattr(descent, "_shared", lambda *_, shared=shared: shared)
        sizes.clear()
        found = attack(model=model, images=images, labels=labels, seeds=torch.arange(60))
        assert max(sizes) <= 7 and sizes.count(7) > 4
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("gap", "passes"), [(1.2, (1, 3)), (2.0, (1, 1))])
def test_rivals_that_all_ask_for_take_no_further_forward_pass(gap: float, passes: tuple[int, int]) -> None:
    offsets = -torch.tensor([0, 1, gap, gap + 0.1, gap + 0.2]).double()  # two rivals may be asked for at most
    model = CountedModel(Affine(torch.eye(5, 20).double(), offsets).eval())
    images = torch.full((40, 1, 4, 5), 0.5).double()
    walks = descent.Descent(model, images, torch.zeros(40, dtype=torch.int64), 4, ANYWHERE)
    walks.walk(walks.active, images, 1, 0.02)
    assert (model.forward_passes / 40 - 1, model.backward_passes / 40) == passes  # less the trial's


def test_a_rival_is_looked_at_again_when_the_nearest_one_recedes() -> None:
    class Receding(nn.Module):
        """The first rival is nearest at 0, never arrives, and by its first gradient seems nearest all along."""

        def forward(self, images: Tensor) -> Tensor:
            x, y = images.flatten(1).unbind(dim=1)
            return torch.stack((torch.zeros_like(x), -0.2 / (1 + 5 * x), y - 0.25), dim=1)

    image = torch.zeros(1, 1, 1, 2).double()
    found = attacked(deepfool, Receding().eval(), image, box=ANYWHERE, steps=10)
    assert predictions(Receding(), found).item() == 2


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_steps_get_along_a_face_of_the_box(norm: str) -> None:
    # nearly all of every step would leave the box: clipping alone gains a small part of the way a step
    model = Affine(torch.tensor([[0.0, 0.0], [10.0, 1.0]]).double(), torch.tensor([0.0, -10.5]).double())
    image = torch.tensor([[[[1.0, 0.0]]]]).double()
    found = attacked(deepfool, model, image, norm=norm, steps=5, bisections=20)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0.5]]]]).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", [UNIT, FLIPPED])
@pytest.mark.parametrize("attack", ATTACKS)
def test_batch_equals_singles_and_any_order(attack: Attack, box: Box) -> None:
    model = OnFlipped(network(SHAPE, 6)) if box.flipped else network(SHAPE, 6)
    images = grey_images(12, SHAPE, spread=0.5)
    images = flip(images) if box.flipped else images
    found = attacked(attack, model, images, box=box)
    assert (predictions(model, found) != predictions(model, images)).double().mean() > 0.9
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(attacked(attack, model, images[order], box=box), found[order], **close)
    singles = torch.cat([attacked(attack, model, image[None], box=box) for image in images])
    torch.testing.assert_close(singles, found, **close)


def test_superdeepfool_on_flipped_data_is_that_on_the_pixels() -> None:
    model = network(SHAPE, 5)
    plain = attacked(superdeepfool, model, BLACK_AND_WHITE)
    flipped = attacked(superdeepfool, OnFlipped(model), flip(BLACK_AND_WHITE), box=FLIPPED)
    torch.testing.assert_close(flip(flipped), plain, rtol=0, atol=1e-8)
    assert (FLIPPED.excess(flipped) < 1e-12).all()


def test_linf_on_flipped_data_keeps_to_the_box_behind_the_flip() -> None:
    model, images = OnFlipped(network(SHAPE, 5)), flip(grey_images(40, SHAPE, spread=0.5))
    found = attacked(in_linf, model, images, box=FLIPPED)
    assert (FLIPPED.excess(found) < 1e-12).all()
    assert (predictions(model, found) != predictions(model, images)).double().mean() > 0.9


def alignment(model: nn.Module, images: Tensor, found: Tensor) -> Tensor:
    """Cosine of the perturbation and the boundary's normal where it ends, (n,)."""
    labels = predictions(model, images)
    _, gradients = class_gradients(model, found, lambda logits: boundary.rivals(logits, labels, 1), labels)
    return (norms.unit(found - images) * norms.unit(gradients[:, 0])).flatten(1).sum(dim=1)


def test_superdeepfool_ends_along_the_normal_and_is_shorter() -> None:
    model, images = network(SHAPE, 5), grey_images(60, SHAPE, spread=0.5)
    one, other = (attacked(attack, model, images, box=ANYWHERE, bisections=20) for attack in (deepfool, superdeepfool))
    before, after = alignment(model, images, one), alignment(model, images, other)
    assert after.median() > before.median() and (1 - after).median() < 0.3 * (1 - before).median()
    assert norms.l2(other - images).median() < norms.l2(one - images).median()


@pytest.mark.parametrize("box", [UNIT, ANYWHERE])
def test_superdeepfool_is_never_longer_before_the_bisection(box: Box) -> None:
    model, images = network(SHAPE, 5), grey_images(60, SHAPE, spread=0.5)
    one, other = (attacked(attack, model, images, box=box, bisections=0) for attack in (deepfool, superdeepfool))
    sizes = norms.l2(one - images), norms.l2(other - images)
    assert (sizes[1] <= sizes[0]).all() and (sizes[1] < 0.99 * sizes[0]).any()
    assert (predictions(model, other) != predictions(model, images)).all()


@pytest.mark.parametrize("outside", [False, True])
def test_superdeepfool_finds_the_nearest_point_of_an_ellipse(outside: bool) -> None:
    model = Ellipse((3.0, 1.5))
    angle = torch.linspace(0.2, 1.4, 40, dtype=torch.float64)
    images = model.axes * torch.stack((angle.cos(), angle.sin()), dim=1) * (1.5 if outside else 0.5)
    images = images.view(40, 1, 1, 2)
    exact = model.distance(images)

    def excess(attack: Attack, **options: object) -> float:
        found = attacked(attack, model, images, box=ANYWHERE, overshoot=1e-3, bisections=30, **options)
        return float((norms.l2(found - images) / exact).median()) - 1

    assert excess(superdeepfool) < 5e-4 and excess(deepfool) > 1e-2
    if outside:  # the projected points stay on their side, so it takes several rounds
        assert excess(superdeepfool, steps=1) > 10 * excess(superdeepfool, steps=3) > 0
        assert excess(superdeepfool, steps=3) > 2 * excess(superdeepfool)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
@pytest.mark.parametrize("attack", ATTACKS)
def test_scale_and_shift_of_the_logits_do_not_matter(attack: Attack, scale: float) -> None:
    model = network(SHAPE, 5)
    other = attacked(attack, Rescaled(model, scale, 3), IMAGES)
    torch.testing.assert_close(other, attacked(attack, model, IMAGES), rtol=0, atol=1e-8)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [torch.nan] * 3, [1.0, torch.nan, 0.0]])
def test_nothing_to_climb_gives_the_clean_image(attack: Attack, logits: list[float]) -> None:
    labels = torch.zeros(12, dtype=torch.int64)
    found = attack(model=Constant(logits), images=IMAGES, labels=labels, seeds=SEEDS)
    assert torch.equal(found, IMAGES)


@pytest.mark.parametrize("attack", ATTACKS)
def test_points_with_nan_logits_are_no_success(attack: Attack) -> None:
    model = affine(SHAPE, 3)
    image = IMAGES[predictions(model, IMAGES) != 0][:1]  # argmax of NaN logits is 0, another class
    labels = predictions(model, image)
    broken = NanBeyond(model, image[0], 0.5 * margins(model, image).item())
    found = attack(model=broken, images=image, labels=labels, seeds=SEEDS[:1])
    assert found.isfinite().all() and not boundary.crossed(broken(found), labels).any()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_fooled_already_stays(attack: Attack) -> None:
    model = affine(SHAPE, 3)
    labels = (predictions(model, IMAGES) + 1) % 3
    assert torch.equal(attack(model=model, images=IMAGES, labels=labels, seeds=SEEDS), IMAGES)


@pytest.mark.parametrize("attack", ATTACKS)
def test_parameters_receive_no_gradients_and_float32_stays(attack: Attack) -> None:
    model = network(SHAPE, 5).float().requires_grad_(True)
    found = attacked(attack, model, IMAGES.float())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.dtype == torch.float32 and not found.requires_grad
    assert (predictions(model, found) != predictions(model, IMAGES.float())).all()


def test_foot_is_the_nearest_point_of_plane_and_box() -> None:
    generator = torch.Generator().manual_seed(5)
    clean, through = torch.rand(2, 50, 3, 4, generator=generator, dtype=torch.float64)
    clean[:25] = (clean[:25] > 0.5).double()  # on the bounds
    normal = torch.randn(50, 3, 4, generator=generator, dtype=torch.float64)

    def height(points: Tensor) -> Tensor:
        return (norms.unit(normal) * (points - through)).flatten(1).sum(dim=1)

    free = boundary.foot(clean, normal, through, -torch.inf, torch.inf)
    torch.testing.assert_close(free, clean - norms.per_sample(height(clean), clean) * norms.unit(normal))
    kept = boundary.foot(clean, normal, through, 0, 1)
    assert ((kept >= 0) & (kept <= 1)).all() and ((kept - free).abs() > 1e-3).flatten(1).any(dim=1).sum() > 25
    torch.testing.assert_close(height(kept), torch.zeros(50).double(), rtol=0, atol=1e-12)
    # nearest: from a convex set's nearest point no other point of the set lies on the clean point's side
    others = torch.rand(50, 400, 3, 4, generator=generator, dtype=torch.float64)
    for _ in range(200):  # towards the plane and the box by turns
        away = (norms.unit(normal)[:, None] * (others - through[:, None])).flatten(2).sum(dim=2)
        others = (others - away[..., None, None] * norms.unit(normal)[:, None]).clamp(0, 1)
    sides = ((clean - kept)[:, None] * (others - kept[:, None])).flatten(2).sum(dim=2)
    assert (sides < 1e-6).all()
    zero = boundary.foot(clean, torch.zeros_like(normal), through, 0, 1)
    assert torch.equal(zero, clean)


def test_class_gradients_choose_classes_by_the_logits() -> None:
    model = affine(SHAPE, 4)
    logits, gradients = class_gradients(model, IMAGES, lambda logits: logits.topk(2).indices)
    torch.testing.assert_close(gradients.flatten(2), model.weight[logits.topk(2).indices])


def test_steepness_and_distances() -> None:
    gradients = torch.tensor([[[3.0, -4.0], [0.0, 0.0], [torch.inf, 1.0]]])
    assert boundary.steepness(gradients, "l2")[0, :2].tolist() == [5, 0]
    assert boundary.steepness(gradients, "linf")[0, :2].tolist() == [7, 0]
    gaps = torch.tensor([[-10.0, 1.0, 1.0]])
    assert boundary.distances(gaps, boundary.steepness(gradients, "l2")).tolist() == [[2, torch.inf, torch.inf]]


CURVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "line": lambda scale, root: scale - root,
    "parabola": lambda scale, root: scale**2 + scale - root**2 - root,
    "cubic": lambda scale, root: scale**3 - root**3,
    "kink": lambda scale, root: torch.where(scale < root, 0.05, 20.0) * (scale - root),
    "jump": lambda scale, root: torch.where(scale < root, -1.0, 1e-3),
    "nan below": lambda scale, root: torch.where(scale < root, torch.nan, 1.0),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bisections", [1, 10, 30])
@pytest.mark.parametrize("curve", CURVES)
def test_locate_is_as_exact_as_halving(curve: str, bisections: int, known: bool) -> None:
    roots = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = torch.zeros(200, dtype=torch.int64)

    def ahead(rows: Tensor, scale: Tensor) -> Tensor:
        asked[rows] += 1
        return CURVES[curve](scale, roots[rows])

    guess = roots + 1e-4 if known else torch.full_like(roots, torch.nan)
    start, end = (CURVES[curve](torch.full_like(roots, scale), roots) for scale in (0.0, 1.0))
    found = boundary.locate(ahead, start, end, guess, bisections)
    assert (CURVES[curve](found, roots) > 0).all()
    assert ((found > roots) | (found == 1)).all() and (found - roots <= 2.0**-bisections).all()
    assert (asked <= bisections + boundary.SPARE).all()
    if bisections == 10 and curve in ("line", "parabola"):
        assert asked.double().mean() < (1.2 if known or curve == "line" else 2.5)


def test_locate_without_bisections_stays_at_the_end() -> None:
    values = torch.ones(3)
    assert boundary.locate(lambda rows, scale: scale, -values, values, 0.5 * values, 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("attack", "passes"), [(deepfool, 1.6), (in_linf, 1.6), (superdeepfool, 2.6)])
def test_the_way_back_takes_few_passes_and_ends_just_beyond_the_boundary(attack: Attack, passes: float) -> None:
    images, model = grey_images(60, SHAPE, spread=0.5), network(SHAPE, 10)
    there, back = CountedModel(model), CountedModel(model)
    ends, found = attacked(attack, there, images, bisections=0), attacked(attack, back, images)
    assert (back.forward_passes - there.forward_passes) / 60 < passes
    assert back.backward_passes == there.backward_passes
    labels = predictions(model, images)
    assert (predictions(model, found) != labels).all()
    nearer = found - 2**-10 * (ends - images)  # `found` lies on the segment from the image to the end
    moved = (found != ends).flatten(1).any(dim=1)
    assert moved.double().mean() > 0.8 and (predictions(model, nearer)[moved] == labels[moved]).all()


def test_a_walk_expects_the_crossing_where_it_is() -> None:
    images = grey_images(60, SHAPE, spread=0.5)
    model = network(SHAPE, 10)
    labels = predictions(model, images)
    walks = descent.Descent(model, images, labels, 9, UNIT)
    walk = walks.walk(walks.active, images, 50, 0.02)
    halved = boundary.bisect(
        lambda scale: boundary.crossed(model(images + norms.per_sample(scale, images) * (walk.ends - images)), labels),
        images,
        30,
    )
    assert walk.found.all() and (walk.guesses - halved).abs().median() < 2e-3


def test_the_first_step_takes_one_pass_forward_and_one_backward_where_one_rival_is_near() -> None:
    weight = torch.eye(10, 40, dtype=torch.float64)
    model = CountedModel(Affine(weight, torch.tensor([1.0, 0.9, *[-50.0] * 8]).double()))
    attacked(deepfool, model, torch.zeros(1, *SHAPE).double(), box=ANYWHERE, bisections=0)
    assert (model.forward_passes - 1, model.backward_passes) == (2, 1)  # one to predict, one to linearise, one to test
