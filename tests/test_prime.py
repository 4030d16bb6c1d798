from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import registry
from pipeline.training.prime import jensen_shannon
from pipeline.transforms import colour, spatial, spectral
from pipeline.transforms.prime import mixing_weights, prime

SHAPES = ((6, 1, 8, 8), (4, 3, 32, 32), (3, 3, 12, 20))
OFF = {"sigma_max": 0.0, "displacement": 0.0, "t_max": 0.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int, seed: int = 9) -> Tensor:
    return torch.rand(shape, generator=rng(seed))


# Primitives


@pytest.mark.parametrize("shape", SHAPES)
def test_strength_zero_is_exactly_the_identity(shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    assert torch.equal(spectral.spectral(images, generator=rng(), sigma_max=0), images)
    assert torch.equal(spatial.spatial(images, generator=rng(), displacement=0), images)
    assert torch.equal(colour.colour(images, generator=rng(), t_max=0), images)
    assert torch.equal(prime(images, generator=rng(), **OFF), images)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("primitive", (spectral.spectral, spatial.spatial, colour.colour, prime))
def test_output_and_determinism(primitive: Any, shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    before = images.clone()
    out = primitive(images, generator=rng(1))
    assert out.shape == images.shape and out.dtype == images.dtype
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(out, primitive(images, generator=rng(1)))
    assert not torch.equal(out, primitive(images, generator=rng(2)))


def test_strength_differs_between_images() -> None:
    images = random_images(1, 1, 16, 16).repeat(64, 1, 1, 1)
    for primitive in (spectral.spectral, spatial.spatial, colour.colour):
        change = (primitive(images, generator=rng()) - images).square().mean((1, 2, 3)).sqrt()
        assert len(change.unique()) == 64 and change.max() > 2 * change.min()


def test_spectral_kernel_is_a_centred_impulse_plus_noise() -> None:
    n, sigma_max = 20_000, 2.0
    kernels = spectral.random_kernels(n, generator=rng(), kernel_size=3, sigma_max=sigma_max)
    impulse = torch.zeros(3, 3)
    impulse[1, 1] = 1
    variance = sigma_max**2 / 3  # E sigma^2 for sigma ~ U(0, sigma_max)
    assert (kernels.mean(0) - impulse).abs().max() < 5 * (variance / n) ** 0.5
    assert (kernels - impulse).square().mean().item() == pytest.approx(variance, rel=0.03)


def test_spectral_filter_shows_its_kernel_where_the_image_is_an_impulse() -> None:
    kernels = torch.randn(5, 3, 3, generator=rng())
    impulse = torch.zeros(5, 2, 7, 7)
    impulse[:, :, 3, 3] = 1
    response = spectral.filtered(impulse, kernels)
    expected = kernels.flip(1, 2)[:, None].expand(-1, 2, -1, -1)  # a correlation returns it turned by 180 degrees
    torch.testing.assert_close(response[..., 2:5, 2:5], expected)
    assert response.abs().sum() == pytest.approx(2 * kernels.abs().sum().item(), rel=1e-5)
    corner = spectral.filtered(torch.ones(5, 1, 7, 7), kernels)[:, 0, 0, 0]  # zeros outside
    torch.testing.assert_close(corner, kernels[:, 1:, 1:].sum((1, 2)))


def test_spectral_refuses_even_kernels() -> None:
    with pytest.raises(ValueError, match="odd"):
        spectral.spectral(random_images(1, 1, 8, 8), generator=rng(), kernel_size=4)


def test_colour_fixes_black_and_white() -> None:
    images = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).repeat(64, 3, 4, 4)
    torch.testing.assert_close(colour.colour(images, generator=rng(), t_max=1.0), images, atol=1e-6, rtol=0)


def test_colour_shift_equals_the_sum_of_sines() -> None:
    images, coefficients = random_images(4, 3, 9, 9).double(), torch.randn(4, 3, 50, generator=rng()).double()
    k = torch.arange(1, 51).double()
    direct = torch.einsum("nck,nchwk->nchw", coefficients, torch.sin(math.pi * k * images[..., None]))
    bound = 7e-5 * coefficients.abs().sum(-1).max().item()
    torch.testing.assert_close(colour.shift(images, coefficients), direct, atol=bound, rtol=0)
    grid = torch.arange(9).double().view(1, 1, 3, 3) / 8  # points of the table: exact
    grid_direct = torch.einsum("ck,chwk->chw", coefficients[0], torch.sin(math.pi * k * grid[0, ..., None]))
    torch.testing.assert_close(colour.shift(grid.repeat(4, 3, 1, 1), coefficients)[0], grid_direct, atol=1e-9, rtol=0)


def test_colour_shift_has_the_stated_size() -> None:
    temperature, frequencies = 0.01, 100
    images = random_images(500, 1, 16, 16)
    coefficients = temperature**0.5 * torch.randn(500, 1, frequencies, generator=rng())
    size = colour.shift(images, coefficients).square().mean().sqrt().item()
    assert size == pytest.approx((temperature * frequencies / 2) ** 0.5, rel=0.03)


@pytest.mark.parametrize("bandwidth", (None, 5))
def test_colour_draws(bandwidth: int | None) -> None:
    n, frequencies, t_max = 4000, 20, 0.04
    draws = colour.random_coefficients(n, 2, generator=rng(), frequencies=frequencies, t_max=t_max, bandwidth=bandwidth)
    present = draws != 0
    assert torch.equal(present[:, 0], present[:, 1])  # one band an image
    count = present[:, 0].sum(1)
    if bandwidth is None:
        assert present[:, 0, 0].all()
        share = present[:, 0].float().mean(0)  # P(K >= k) = 1 - (k - 1) / frequencies
        assert (share - (1 - torch.arange(frequencies) / frequencies)).abs().max() < 5 * 0.5 / n**0.5
        assert draws.square().sum().item() == pytest.approx(n * 2 * (t_max / 2) * (frequencies + 1) / 2, rel=0.06)
    else:
        first, last = present[:, 0].int().argmax(1), frequencies - present[:, 0].flip(1).int().argmax(1)
        assert torch.equal(last - first, count) and count.min() >= 1 and count.max() == bandwidth


@pytest.mark.parametrize("shape", SHAPES)
def test_spatial_field_vanishes_on_the_border_and_has_the_stated_size(shape: tuple[int, ...]) -> None:
    height, width = shape[-2:]
    top = min(height, width) - 2
    fields = spatial.random_fields(height, width, torch.full((6000,), top), generator=rng())
    assert fields.shape == (6000, 2, height, width)
    assert fields[..., 0].eq(0).all() and fields[..., -1].eq(0).all()
    assert fields[..., 0, :].eq(0).all() and fields[..., -1, :].eq(0).all()
    k = torch.arange(1, top + 1).double()
    r = (k[:, None] ** 2 + k**2).sqrt()
    # On s points sin^2 sums to (s - 1) / 2 for every frequency below s - 1.
    per_mode = (height - 1) * (width - 1) / (4 * height * width)
    expected = (per_mode * r[r < top + 0.5].pow(-2).sum()).sqrt().item()
    assert fields.square().mean().sqrt().item() == pytest.approx(expected, rel=0.03)


def test_spatial_field_follows_the_continuum_law_of_its_paper() -> None:
    cut, size = 30, 64  # rms length sqrt(pi log(cut)) / 2 at temperature 1, up to the sum's low end
    fields = spatial.random_fields(size, size, torch.full((200,), cut), generator=rng())
    length = fields.square().sum(1).mean().sqrt().item()
    assert length == pytest.approx((math.pi * math.log(cut)) ** 0.5 / 2, rel=0.15)


def test_spatial_modes_stay_below_each_images_own_cut() -> None:
    cut = torch.tensor([2, 9])
    fields = spatial.random_fields(33, 33, cut, generator=rng()).double()
    k = torch.arange(1, 32).double()
    sines = torch.sin(math.pi * k[:, None] * torch.arange(33) / 32)
    modes = (sines @ fields @ sines.T / 256).abs().amax(1)  # sine transform: (2, 31, 31)
    r = (k[:, None] ** 2 + k**2).sqrt()
    for index, limit in enumerate((2, 9)):
        assert modes[index][r >= limit + 0.5].max() < 1e-5 and modes[index][r < limit + 0.5].min() > 1e-5


@pytest.mark.parametrize("size", (8, 32, 224))
def test_temperature_interval_is_valid(size: int) -> None:
    cut = torch.arange(2, size + 1)
    low, high = spatial.temperature_range(cut, size=size, alpha=1.0)
    assert (low > 0).all() and (low <= high).all()
    pinned = cut > 2 * size / math.pi
    assert torch.equal(low == high, pinned)
    length = size * (math.pi * low * cut.log()).sqrt() / 2
    torch.testing.assert_close(length, torch.full_like(length, 0.5))


def test_deformation_by_whole_and_half_pixels() -> None:
    images = random_images(2, 3, 8, 8)
    field = torch.zeros(2, 2, 8, 8)
    field[0, 0], field[1, 1] = 2.0, 0.5
    out = spatial.deformed(images, field)
    torch.testing.assert_close(out[0, :, :6], images[0, :, 2:])
    torch.testing.assert_close(out[0, :, 6:], images[0, :, 7:].expand(-1, 2, -1))  # the edge repeats
    torch.testing.assert_close(out[1, ..., :-1], (images[1, ..., 1:] + images[1, ..., :-1]) / 2)


def test_deformation_keeps_the_border_and_linear_ramps() -> None:
    images = random_images(16, 1, 20, 20)
    out = spatial.spatial(images, generator=rng())
    for edge in ((..., 0), (..., -1), (..., 0, slice(None)), (..., -1, slice(None))):
        assert torch.equal(out[edge], images[edge])
    ramp = torch.arange(20.0).expand(16, 1, 20, 20)
    field = spatial.random_fields(20, 20, torch.full((16,), 5), generator=rng())
    torch.testing.assert_close(
        spatial.deformed(ramp, field)[:, 0], (ramp[:, 0] + field[:, 1]).clamp(0, 19), atol=1e-4, rtol=0
    )


def test_spatial_refuses_a_cut_below_three() -> None:
    with pytest.raises(ValueError, match="cut_max 2"):
        spatial.spatial(random_images(1, 1, 8, 8), generator=rng(), cut_max=2)


# Mixture


@pytest.mark.parametrize("width", (1, 3))
def test_dirichlet_weights(width: int) -> None:
    n, parts = 40_000, width + 1
    weights = mixing_weights(n, width, "dirichlet", generator=rng())
    torch.testing.assert_close(weights.sum(1), torch.ones(n))
    deviation = (width / (parts**2 * (parts + 1))) ** 0.5
    assert (weights.mean(0) - 1 / parts).abs().max() < 5 * deviation / n**0.5
    torch.testing.assert_close(weights.std(0), torch.full((parts,), deviation), rtol=0.03, atol=0)
    above = 0.5**width  # the clean weight follows Beta(1, width)
    assert (weights[:, 0] > 0.5).float().mean().item() == pytest.approx(above, abs=5 * 0.5 / n**0.5)


def test_beta_weights() -> None:
    n = 40_000
    weights = mixing_weights(n, 3, "beta", generator=rng())
    torch.testing.assert_close(weights.sum(1), torch.ones(n))
    assert (weights[:, 0] > 0.5).float().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / n**0.5)
    assert weights[:, 0].var().item() == pytest.approx(1 / 12, rel=0.03)
    chains = weights[:, 1:] / weights[:, 1:].sum(1, keepdim=True)
    torch.testing.assert_close(chains.std(0), torch.full((3,), (2 / (9 * 4)) ** 0.5), rtol=0.03, atol=0)


def test_share_of_untouched_images() -> None:
    # One chain of depth two is the identity with probability 1/16; the primitives change everything else.
    n = 4000
    images = random_images(1, 1, 8, 8).repeat(n, 1, 1, 1)
    out = prime(images, generator=rng(), width=1, depth=2, mixing="dirichlet")
    share = (out == images).flatten(1).all(1).float().mean().item()
    assert share == pytest.approx(1 / 16, abs=5 * (1 / 16 * 15 / 16 / n) ** 0.5)


def test_augmentation_carries_no_gradient() -> None:
    assert not prime(random_images(2, 1, 8, 8).requires_grad_(), generator=rng()).requires_grad


# Training


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    )


def step(classifier: nn.Module, seed: int = 0, **given: Any) -> tuple[Tensor, dict[str, Tensor]]:
    options = registry.bind("training", "prime", given, "config")
    images, labels = random_images(16, 1, 8, 8), torch.arange(16) % 10
    function = registry.load("training", "prime")
    loss, metrics = function(classifier=classifier, images=images, labels=labels, generator=rng(seed), **options)
    return loss, metrics


def test_loss_of_equal_views_is_the_cross_entropy() -> None:
    classifier = net().eval()
    expected = F.cross_entropy(classifier(random_images(16, 1, 8, 8)), torch.arange(16) % 10)
    for weight in (12.0, 0.0):
        loss, metrics = step(classifier, jsd_weight=weight, **OFF)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert set(metrics) == {"augmented_accuracy"}
    assert step(classifier, **OFF)[1]["divergence"].abs() < 1e-6


def test_loss_adds_the_weighted_divergence() -> None:
    classifier = net().eval()
    base, _ = step(classifier, **OFF)
    for weight in (1.0, 12.0):
        loss, metrics = step(classifier, jsd_weight=weight)
        assert metrics["divergence"] > 0 and not metrics["divergence"].requires_grad
        torch.testing.assert_close(loss.detach(), base.detach() + weight * metrics["divergence"])


def test_jensen_shannon_closed_forms() -> None:
    certain = 60 * torch.eye(3)[:, None]  # three views, each sure of another class
    assert jensen_shannon(certain).item() == pytest.approx(math.log(3), abs=1e-5)
    p = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.5, 0.5]]], dtype=torch.float64)
    entropy = -(p * p.log()).sum(-1).mean()
    mean = p.mean(0)
    assert jensen_shannon(p.log() + 3).item() == pytest.approx((-(mean * mean.log()).sum() - entropy).item(), abs=1e-12)


@pytest.mark.parametrize("weight", (0.0, 12.0))
def test_step_is_deterministic_and_trains_every_parameter(weight: float) -> None:
    classifier = net()
    loss, _ = step(classifier, jsd_weight=weight)
    assert torch.equal(loss, step(classifier, jsd_weight=weight)[0])
    assert not torch.equal(loss, step(classifier, seed=1, jsd_weight=weight)[0])
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in classifier.parameters())


def test_one_forward_pass_sees_three_views() -> None:
    classifier, seen = net(), []
    classifier[0].register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    step(classifier)
    step(classifier, jsd_weight=0)
    assert seen == [48, 16]
