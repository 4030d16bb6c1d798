"""PRIME: the laws of its primitives, chains and mixture in both modes, against closed forms and a plain reading."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import naive_prime as naive
from pipeline import registry
from pipeline.contracts import UserError
from pipeline.training.consistency import consistency_loss, jensen_shannon
from pipeline.transforms import _blocks, colour, spatial, spectral
from pipeline.transforms.prime import mixing_weights, prime, random_chains

SHAPES = ((6, 1, 8, 8), (4, 3, 32, 32), (3, 3, 12, 20))
MODES: tuple[Any, ...] = ("default", "official")
METHODS = (spectral.spectral, spatial.spatial, colour.colour, prime)
OFF = {"sigma_max": 0.0, "displacement": 0.0, "t_max": 0.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int, seed: int = 9) -> Tensor:
    return torch.rand(shape, generator=rng(seed))


def shifted(images: Tensor, pixels: int = 1) -> Tensor:
    """Up and to the left, zeros from outside."""
    return F.pad(images, (0, pixels, 0, pixels))[..., pixels:, pixels:]


def close_to_share(found: Tensor, expected: float) -> None:
    """A share of independent draws: within five standard errors."""
    error = (expected * (1 - expected) / found.numel()) ** 0.5
    assert found.double().mean().item() == pytest.approx(expected, abs=5 * error)


# Primitives


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_strength_zero_is_exactly_the_identity(shape: tuple[int, ...], mode: Any) -> None:
    images = random_images(*shape)
    still = spectral.spectral(images=images, generator=rng(), sigma_max=0, mode=mode)
    assert torch.equal(still, images if mode == "default" else shifted(images))
    assert torch.equal(spatial.spatial(images=images, generator=rng(), displacement=0, mode=mode), images)
    assert torch.equal(colour.colour(images=images, generator=rng(), t_max=0, mode=mode), images)
    if mode == "default":
        assert torch.equal(prime(images=images, generator=rng(), **OFF), images)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_output_and_determinism(method: Any, shape: tuple[int, ...], mode: Any) -> None:
    images = random_images(*shape)
    before = images.clone()
    out = method(images=images, generator=rng(1), mode=mode)
    assert out.shape == images.shape and out.dtype == images.dtype
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(out, method(images=images, generator=rng(1), mode=mode))
    assert not torch.equal(out, method(images=images, generator=rng(2), mode=mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_blocks_and_mixed_precision_change_nothing(method: Any, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(23, 3, 12, 12)
    whole = method(images=images, generator=rng(1), mode=mode)
    monkeypatch.setattr(_blocks, "BLOCK_VALUES", 1)
    monkeypatch.setattr(_blocks, "BLOCK_IMAGES", 2)
    with torch.autocast("cpu", torch.bfloat16):
        again = method(images=images, generator=rng(1), mode=mode)
    torch.testing.assert_close(again, whole, atol=1e-3, rtol=0)  # curves amplify the rounding of what precedes them


@pytest.mark.parametrize("method", METHODS)
def test_augmentation_carries_no_gradient(method: Any) -> None:
    assert not method(images=random_images(2, 1, 8, 8).requires_grad_(), generator=rng()).requires_grad


@pytest.mark.parametrize("method", METHODS[:3])
def test_strength_differs_between_images(method: Any) -> None:
    images = random_images(1, 1, 16, 16).repeat(64, 1, 1, 1)
    change = (method(images=images, generator=rng()) - images).square().mean((1, 2, 3)).sqrt()
    assert len(change.unique()) == 64 and change.max() > 2 * change.min()


@pytest.mark.parametrize("method", (*METHODS[:3], partial(prime, width=1, depth=1, sigma_max=0, t_max=0)))
def test_strengths_are_not_tied_to_the_place_in_the_batch(method: Any) -> None:
    # Draws come sorted; which image gets which is random.
    images = random_images(1, 1, 12, 12).repeat(2000, 1, 1, 1)
    change = (method(images=images, generator=rng()) - images).square().mean((1, 2, 3)).sqrt()
    place = change.nonzero()[:, 0].float()
    correlation = torch.corrcoef(torch.stack((change[change > 0], place)))[0, 1]
    assert len(place) > 400 and correlation.abs() < 4 / len(place) ** 0.5


def test_official_mode_deforms_all_images_alike() -> None:
    images = random_images(1, 3, 16, 16).repeat(40, 1, 1, 1)
    out = spatial.spatial(images=images, generator=rng(), mode="official")
    torch.testing.assert_close(out, out[:1].expand_as(out))
    assert not torch.allclose(out, images)
    assert not torch.allclose(out[0], spatial.spatial(images=images, generator=rng(1), mode="official")[0])


@pytest.mark.parametrize("mode", MODES)
def test_official_mode_shares_the_strength_of_the_filters(mode: Any) -> None:
    kernels = spectral.random_kernels(20_000, generator=rng(), mode=mode, kernel_size=3, sigma_max=2.0)
    noise = kernels.flatten(1)[:, :4].double()  # without the impulse, centred or in the corner
    kurtosis = (noise**4).mean() / noise.square().mean() ** 2
    if mode == "official":  # one sigma: normal, and no two kernels alike
        assert kurtosis.item() == pytest.approx(3, abs=5 * (24 / noise.numel()) ** 0.5)
        assert len(kernels[:, 0, 0].unique()) > 19_000
    else:  # 3 E sigma^4 / (E sigma^2)^2 = 27 / 5
        assert kurtosis.item() == pytest.approx(5.4, abs=0.3)


def test_official_mode_shares_the_strength_of_the_curves() -> None:
    # With one frequency the shift is c sin(pi v): c is normal over images and channels if they share T.
    images = torch.full((5000, 2, 1, 1), 0.5)
    for mode, expected, tolerance in (("official", 3.0, 5 * (24 / 10_000) ** 0.5), ("default", 4.0, 0.5)):
        transform = colour.random_curves(5000, 2, generator=rng(), mode=mode, frequencies=1, t_max=1e-4, bandwidth=None)
        c = (transform(images, slice(0, 5000)) - images).double()
        assert ((c**4).mean() / c.square().mean() ** 2).item() == pytest.approx(expected, abs=tolerance)


def test_spectral_kernel_is_an_impulse_plus_noise() -> None:
    n, sigma_max = 20_000, 2.0
    kernels = spectral.random_kernels(n, generator=rng(), mode="default", kernel_size=3, sigma_max=sigma_max)
    impulse = torch.zeros(3, 3)
    impulse[1, 1] = 1
    variance = sigma_max**2 / 3  # E sigma^2 for sigma ~ U(0, sigma_max)
    assert (kernels.mean(0) - impulse).abs().max() < 5 * (variance / n) ** 0.5
    assert (kernels - impulse).square().mean().item() == pytest.approx(variance, rel=0.03)
    for size in (3, 5, 7):
        still = spectral.random_kernels(1, generator=rng(), mode="official", kernel_size=size, sigma_max=0)
        assert still.nonzero().tolist() == [[0, size // 2 + 1, size // 2 + 1]]


def test_share_of_clipped_pixels_of_a_grey_image() -> None:
    # Nine weights sum to N(1, 9 sigma^2), so grey leaves [0, 1] with probability erfc(1 / (sqrt(18) sigma)).
    n, sigma_max = 20_000, 4.0
    out = spectral.spectral(images=torch.full((n, 1, 3, 3), 0.5), generator=rng(), sigma_max=sigma_max)[:, 0, 1, 1]
    sigma = torch.linspace(0, sigma_max, 100_001)[1:]
    close_to_share((out == 0) | (out == 1), torch.erfc(1 / (18**0.5 * sigma)).mean().item())


@pytest.mark.parametrize(("sigma", "share"), ((0.5, 0.58), (1, 0.73), (2, 0.86), (4, 0.93)))
def test_share_of_clipped_pixels_of_noise(sigma: float, share: float) -> None:
    # Measured with the released filter on a few images: kernels alone move these shares by two points.
    n = 3000
    largest = sigma / torch.rand(1, generator=rng(7)).item()  # the first draw is the batch's share of the largest sigma
    out = spectral.spectral(
        images=random_images(n, 1, 8, 8), generator=rng(7), sigma_max=largest, mode="official"
    )  # fmt: skip
    assert ((out == 0) | (out == 1))[..., :-1, :-1].float().mean().item() == pytest.approx(share, abs=0.035)


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


@pytest.mark.parametrize(("mode", "size"), (("default", 4), ("official", 1)))
def test_spectral_refuses_kernels_without_their_place(mode: Any, size: Any) -> None:
    with pytest.raises(UserError, match=f"kernel_size: given {size}, expected"):
        spectral.spectral(images=random_images(1, 1, 8, 8), generator=rng(), kernel_size=size, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_colour_fixes_black_and_white(mode: Any) -> None:
    images = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).repeat(64, 3, 4, 4)
    assert torch.equal(colour.colour(images=images, generator=rng(), t_max=1.0, mode=mode), images)


def test_colour_shift_equals_the_sum_of_sines() -> None:
    images, coefficients = random_images(4, 3, 9, 9).double(), torch.randn(4, 3, 50, generator=rng()).double()
    coefficients[..., :10] = 0
    band = slice(10, 50)
    k = torch.arange(1, 51).double()
    direct = torch.einsum("nck,nchwk->nchw", coefficients, torch.sin(math.pi * k * images[..., None]))
    bound = ((k / 50) ** 2 * (math.pi / 16) ** 2 / 8 * coefficients.abs()).sum(-1)[..., None, None]
    assert ((colour.shift(images, coefficients, band) - direct).abs() <= bound + 1e-12).all()
    grid = (torch.arange(9).double().view(1, 1, 3, 3) / 8).repeat(4, 3, 1, 1)  # points of the table: exact
    direct = torch.einsum("nck,nchwk->nchw", coefficients, torch.sin(math.pi * k * grid[..., None]))
    torch.testing.assert_close(colour.shift(grid, coefficients, band), direct, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("frequencies", "temperature", "present", "error"), ((100, 0.01, 100, 0.3), (500, 0.05, 20, 0.7))
)
def test_colour_shift_has_the_stated_size_and_error(
    frequencies: int, temperature: float, present: int, error: float
) -> None:
    images = random_images(300, 1, 8, 8).double()
    coefficients = temperature**0.5 * torch.randn(300, 1, frequencies, generator=rng()).double()
    coefficients[..., : frequencies - present] = 0
    moved = colour.shift(images, coefficients, slice(None))
    assert moved.square().mean().sqrt().item() == pytest.approx((temperature * present / 2) ** 0.5, rel=0.06)
    k = torch.arange(1, frequencies + 1).double()
    direct = torch.einsum("nck,nchwk->nchw", coefficients, torch.sin(math.pi * k * images[..., None]))
    assert 255 * (moved - direct).square().mean().sqrt() < error


@pytest.mark.parametrize("mode", MODES)
def test_colour_moves_values_by_the_published_size(mode: Any) -> None:
    # Before the clip sqrt(T K / 2); here small enough for none, averaged over T ~ U(0, t_max) and K ~ U{1, ..., 20}.
    images = 0.3 + 0.4 * random_images(1, 1, 8, 8)
    t_max, frequencies, batches = 2e-6, 20, 600
    moved = []
    for seed in range(batches if mode == "official" else 3):
        batch = images.repeat(4 if mode == "official" else 2000, 1, 1, 1)
        out = colour.colour(
            images=batch, generator=rng(seed), mode=mode, frequencies=frequencies, t_max=t_max
        )  # fmt: skip
        moved.append((out - batch).square().mean((1, 2, 3)))
    sizes = torch.cat(moved).view(-1, 4).mean(1)
    k = torch.arange(1, frequencies + 1)
    power = torch.sin(math.pi * k * images.flatten()[:, None]).square().mean(0)  # per frequency, near 1/2
    expected = t_max / 2 * (power * (1 - (k - 1) / frequencies)).sum()
    assert (sizes.mean() - expected).abs() < 4 * sizes.std() / len(sizes) ** 0.5


@pytest.mark.parametrize("bandwidth", (None, 5))
def test_colour_bands(bandwidth: int | None) -> None:
    n, frequencies = 4000, 20
    first, last = colour.random_bands(n, generator=rng(), frequencies=frequencies, bandwidth=bandwidth)
    assert last.tolist() == sorted(last.tolist())
    if bandwidth is None:
        assert first.eq(1).all()
        share = (last[:, None] >= torch.arange(1, frequencies + 1)).float().mean(0)
        assert (share - (1 - torch.arange(frequencies) / frequencies)).abs().max() < 5 * 0.5 / n**0.5
    else:
        count = last - first + 1
        assert count.min() == 1 and count.max() == bandwidth and last.max() == frequencies
        # K uniform, k0 uniform up to K: P(k0 = 1) = mean of 1 / K.
        close_to_share(first == 1, (1 / torch.arange(1.0, frequencies + 1)).mean().item())


def sine_fields(height: int, width: int, cut: Tensor, seed: int = 0) -> Tensor:
    """Fields at temperature 1 in units of the sides."""
    normals = torch.randn(int(2 * spatial.mode_counts(cut).sum()), generator=rng(seed))
    return spatial.sine_fields(height, width, cut, normals, torch.ones(len(cut), 2), int(cut.max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_spatial_field_vanishes_on_the_border_and_has_the_stated_size(shape: tuple[int, ...]) -> None:
    height, width = shape[-2:]
    top = min(height, width) - 2
    fields = sine_fields(height, width, torch.full((6000,), top))
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
    fields = sine_fields(size, size, torch.full((200,), cut))
    length = fields.square().sum(1).mean().sqrt().item()
    assert length == pytest.approx((math.pi * math.log(cut)) ** 0.5 / 2, rel=0.15)


def test_spatial_modes_stay_below_each_images_own_cut() -> None:
    cut = torch.tensor([2, 9])
    fields = sine_fields(33, 33, cut).double()
    k = torch.arange(1, 32).double()
    sines = torch.sin(math.pi * k[:, None] * torch.arange(33) / 32)
    modes = (sines @ fields @ sines.T / 256).abs().amax(1)  # sine transform: (2, 31, 31)
    r = (k[:, None] ** 2 + k**2).sqrt()
    for index, limit in enumerate((2, 9)):
        assert modes[index][r >= limit + 0.5].max() < 1e-5 and modes[index][r < limit + 0.5].min() > 1e-5


def test_number_of_modes_below_a_cut() -> None:
    cut = torch.tensor([2, 3, 10, 31])
    expected = [sum(math.hypot(i, j) < c + 0.5 for i in range(1, c + 1) for j in range(1, c + 1)) for c in cut.tolist()]
    assert spatial.mode_counts(cut).tolist() == expected


@pytest.mark.parametrize(("size", "cut_max", "share"), ((32, 100, 0.34), (8, 100, 0.69), (224, 500, 0.22)))
def test_share_of_fields_that_the_pixels_cannot_carry(size: int, cut_max: int, share: float) -> None:
    cut = spatial.random_cuts(40_000, cut_max, generator=rng())
    assert cut.min() == 2 and cut.max() <= cut_max
    assert (cut > size - 1).float().mean().item() == pytest.approx(share, abs=0.02)
    assert spatial.random_cuts(40_000, size - 1, generator=rng()).max() <= size - 1


@pytest.mark.parametrize(("size", "expected"), ((8, 100), (64, 100), (65, 500)))
def test_cut_max_of_the_modes(size: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = spatial.random_cuts
    monkeypatch.setattr(spatial, "random_cuts", lambda n, cut_max, **g: seen.append(cut_max) or original(n, 5, **g))
    for mode in MODES:
        spatial.spatial(images=random_images(2, 1, size, 6), generator=rng(), mode=mode)
    assert seen == [size - 1, expected]


@pytest.mark.parametrize("size", (8, 32, 224))
def test_temperature_interval_is_valid(size: int) -> None:
    cut = torch.arange(2, size + 1)
    low, high = spatial.temperature_range(cut, size=size, alpha=1.0)
    assert (low > 0).all() and (low <= high).all()
    pinned = cut > 2 * size / math.pi
    assert torch.equal(low == high, pinned)
    length = size * (math.pi * low * cut.log()).sqrt() / 2
    torch.testing.assert_close(length, torch.full_like(length, 0.5))


def test_temperature_follows_the_arcsine_law_on_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    n, size, seen = 20_000, 64, []

    def recorded(height: int, width: int, cut: Tensor, normals: Tensor, scale: Tensor, cut_max: int) -> Tensor:
        low, high = spatial.temperature_range(cut, size=size, alpha=1.0)
        seen.append(((scale / 2 / torch.tensor([height, width])).square() - low[:, None]) / (high - low)[:, None])
        return torch.zeros(len(cut), 2, height, width)

    monkeypatch.setattr(spatial, "sine_fields", recorded)
    images = torch.zeros(n, 1, size, 2)
    spatial.spatial(images=images, generator=rng(), cut_max=10, displacement=2.0)  # displacements scale with it
    u = torch.cat(seen)
    torch.testing.assert_close(u[:, 0], u[:, 1], atol=1e-4, rtol=0)
    close_to_share(u[:, 0] < 0.5, 0.5)
    assert u[:, 0].var().item() == pytest.approx(1 / 8, rel=5 * (1 / 2 / n) ** 0.5)  # E (u - 1/2)^4 = 3 / 128


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
    out = spatial.spatial(images=images, generator=rng())
    for edge in ((..., 0), (..., -1), (..., 0, slice(None)), (..., -1, slice(None))):
        torch.testing.assert_close(out[edge], images[edge], atol=1e-5, rtol=0)
    ramp = torch.arange(20.0).expand(16, 1, 20, 20) / 19
    field = sine_fields(20, 20, torch.full((16,), 5))
    expected = (ramp[:, 0] + field[:, 1] / 19).clamp(0, 1)
    torch.testing.assert_close(spatial.deformed(ramp, field)[:, 0], expected, atol=1e-5, rtol=0)


def test_spatial_refuses_a_cut_below_three() -> None:
    with pytest.raises(UserError, match="cut_max: given 2"):
        spatial.spatial(images=random_images(1, 1, 8, 8), generator=rng(), cut_max=2)


# Mixture


@pytest.mark.parametrize(("mixing", "mean", "above"), (("beta", 0.5, 0.5), ("dirichlet", 0.25, 0.125)))
def test_weight_of_the_clean_image(mixing: Any, mean: float, above: float) -> None:
    weights = mixing_weights(40_000, 3, mixing, generator=rng())[:, 0]
    assert (weights.mean() - mean).abs() < 4 * weights.std() / 200
    close_to_share(weights > 0.5, above)


@pytest.mark.parametrize(("mode", "own"), (("default", "dirichlet"), ("official", "beta")))
def test_mixing_is_the_modes_own_unless_given(mode: Any, own: Any) -> None:
    images = random_images(3, 1, 8, 8)
    out = {mixing: prime(images=images, generator=rng(), mode=mode, mixing=mixing) for mixing in (None, own)}
    assert torch.equal(out[None], out[own])
    other = "beta" if own == "dirichlet" else "dirichlet"
    assert not torch.equal(out[None], prime(images=images, generator=rng(), mode=mode, mixing=other))


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


def test_chains_of_the_default_mode_are_binomial() -> None:
    drawn = random_chains(40_000, 3, "default", generator=rng())
    for primitive in range(4):
        close_to_share(drawn == primitive, 0.25)
    length = (drawn != 3).sum(0)
    for count in range(4):
        close_to_share(length == count, math.comb(3, count) * 0.75**count * 0.25 ** (3 - count))
    close_to_share(length == 0, 1 / 64)


def test_chains_of_the_official_mode_are_uniform_in_length() -> None:
    drawn = random_chains(40_000, 3, "official", generator=rng())
    length = (drawn != 3).sum(0)
    assert torch.equal(drawn != 3, torch.arange(3)[:, None] < length)  # the live steps come first
    for count in (1, 2, 3):
        close_to_share(length == count, 1 / 3)
    for primitive in range(3):
        close_to_share(drawn[0] == primitive, 1 / 3)


def test_share_of_untouched_images() -> None:
    # One chain of depth two, or two of depth one, are the identity with probability 1/16; primitives change the rest.
    images = random_images(1, 1, 8, 8).repeat(4000, 1, 1, 1)
    for width, depth in ((1, 2), (2, 1)):
        out = prime(images=images, generator=rng(), width=width, depth=depth)
        close_to_share((out == images).flatten(1).all(1), 1 / 16)
    out = prime(images=images, generator=rng(), width=1, depth=2, mode="official")
    assert not (out == images).flatten(1).all(1).any()


def test_official_mode_of_strength_zero_mixes_shifted_images() -> None:
    images = torch.zeros(300, 1, 8, 8)
    images[..., 5, 5] = 1
    out = prime(images=images, generator=rng(), mode="official", **OFF)[:, 0]
    place = out.diagonal(dim1=1, dim2=2)  # an impulse moves along the diagonal, a pixel a filter
    torch.testing.assert_close(place[:, 2:6].sum(1), torch.ones(300))
    torch.testing.assert_close(out.sum((1, 2)), torch.ones(300))
    assert (place[:, 2:6].amax(0) > 0).all()


# Against the plain reading of the paper, which shares no code


CURVES = {"frequencies": 20, "t_max": 0.04}
PAIRS: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "spectral": (naive.naive_spectral, spectral.spectral, {"sigma_max": 1.0}, 1500),
    "spatial": (naive.naive_spatial, spatial.spatial, {}, 1500),
    "colour": (naive.naive_colour, colour.colour, CURVES, 1000),
    "colour in bands": (naive.naive_colour, colour.colour, {**CURVES, "bandwidth": 4}, 1500),
    "prime": (naive.naive_prime, prime, {**CURVES, "sigma_max": 1.0, "width": 2, "depth": 2}, 800),
}


@pytest.mark.parametrize("name", PAIRS)
def test_same_law_as_the_plain_reading(name: str) -> None:
    plain, ours, options, n = PAIRS[name]
    image = random_images(2, 8, 8)  # of 8 pixels, so the largest cut is 7
    images = image.repeat(n, 1, 1, 1)
    if name == "prime":
        theirs = plain(images, rng(3), **options)
    else:
        generator = rng(3)
        theirs = torch.stack([plain(image, generator, **options) for _ in range(n)])
    both = []
    for out, size in ((theirs, n), (ours(images=image.repeat(8 * n, 1, 1, 1), generator=rng(4), **options), 8 * n)):
        change = (out - image).double()
        moments = torch.stack(
            (
                out.mean((1, 2, 3)).double(),
                change.square().mean((1, 2, 3)),
                change.abs().mean((1, 2, 3)),
                change[:, 0].mul(change[:, 1]).mean((1, 2)),  # of the channels with each other
                (change[..., 1:] * change[..., :-1]).mean((1, 2, 3)),  # of neighbours
                (change.abs() < 1e-4).double().mean((1, 2, 3)),
                ((out == 0) | (out == 1)).double().mean((1, 2, 3)),
                change.square().mean((1, 2, 3)).square(),
            )
        )
        both.append((moments.mean(1), moments.var(1) / size))
    (mean, variance), (mean2, variance2) = both
    apart = (mean - mean2).abs() / (variance + variance2 + 1e-16).sqrt()
    assert apart.max() < 4, apart


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
    classifier = net()
    images, labels = random_images(16, 1, 8, 8), torch.arange(16) % 10
    for smoothing in (0.0, 0.3):
        expected = F.cross_entropy(classifier(images), labels, label_smoothing=smoothing)
        for weight in (12.0, 0.0):
            loss, metrics = step(classifier, jsd_weight=weight, label_smoothing=smoothing, **OFF)
            torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert set(metrics) == {"augmented_accuracy"}
    assert step(classifier, **OFF)[1]["divergence"].abs() < 1e-6


def test_loss_adds_the_weighted_divergence() -> None:
    classifier, images, labels = net().eval(), random_images(16, 1, 8, 8), torch.arange(16) % 10
    views = [random_images(16, 1, 8, 8, seed=seed) for seed in (1, 2, 3)]
    for weight in (1.0, 12.0):
        loss, metrics = consistency_loss(
            classifier=classifier, images=images, labels=labels, views=views, weight=weight, label_smoothing=0.1
        )
        logits = torch.stack([classifier(x) for x in (images, *views)])
        torch.testing.assert_close(metrics["divergence"], jensen_shannon(logits).detach())
        clean = F.cross_entropy(logits[0], labels, label_smoothing=0.1)
        torch.testing.assert_close(loss, clean + weight * jensen_shannon(logits))
        assert metrics["accuracy"] == (logits[0].argmax(1) == labels).float().mean()
        assert metrics["divergence"] > 0 and not metrics["divergence"].requires_grad


@pytest.mark.parametrize("weight", (0.0, 12.0))
def test_validation_sees_the_clean_images_alone(weight: float) -> None:
    classifier, seen = net().eval(), []
    classifier[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    loss, metrics = step(classifier, jsd_weight=weight)
    images, labels = random_images(16, 1, 8, 8), torch.arange(16) % 10
    assert len(seen) == 1 and torch.equal(seen[0], images)
    torch.testing.assert_close(loss, F.cross_entropy(classifier(images), labels))
    assert set(metrics) == {"accuracy"}


def test_views_are_two_augmentations_with_the_given_options() -> None:
    given = {
        "mode": "official", "width": 2, "depth": 4, "mixing": "dirichlet", "kernel_size": 5, "sigma_max": 1.0,
        "cut_max": 5, "alpha": 0.5, "displacement": 0.5, "frequencies": 7, "t_max": 0.05, "bandwidth": 3,
    }  # fmt: skip
    classifier, seen, generator = net(), [], rng(5)
    classifier[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    step(classifier, seed=5, **given)
    assert set(registry.options("training", "prime")) == {*given, "jsd_weight", "label_smoothing"}
    images = random_images(16, 1, 8, 8)
    expected = (images, *(prime(images=images, generator=generator, **given) for _ in range(2)))
    assert torch.equal(seen[0], torch.cat(expected))
    assert len({float(view.sum()) for view in expected}) == 3


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
