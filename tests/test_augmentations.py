"""AugMix and HybridAugment++: the augmentations and the trainings on them; PRIME has its own file."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import registry
from pipeline.contracts import UserError
from pipeline.training.augmix import augmix as train_augmix
from pipeline.training.hybrid_augment import hybrid_augment as train_hybrid
from pipeline.transforms import _operations as operations
from pipeline.transforms.augmix import augmix
from pipeline.transforms.hybrid_augment import bands, hybrid_augment, paired, recombined, single

SHAPES = ((6, 1, 8, 8), (4, 3, 16, 16), (3, 3, 12, 20), (1, 3, 9, 9))
PAIRED = {"probability": 1.0, "swap_probability": 0.0, "kernel_size": 3, "sigma": 0.5, "mode": "per_image"}
SINGLE = {
    "probability": 1.0,
    "swap_amplitude": True,
    "severity": 3.0,
    "kernel_size": 3,
    "sigma": 0.5,
    "mode": "per_image",
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int, seed: int = 9) -> Tensor:
    return torch.rand(shape, generator=rng(seed))


def eight_bits(*shape: int) -> Tensor:
    return (255 * random_images(*shape)).round() / 255


def to_pil(image: Tensor) -> Image.Image:
    pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).float() / 255


# Both


@pytest.mark.parametrize("value", (0.0, 1.0))
@pytest.mark.parametrize("augment", (augmix, hybrid_augment))
def test_images_of_one_value_stay_finite(augment: Callable[..., Tensor], value: float) -> None:
    out = augment(images=torch.full((30, 3, 8, 8), value), generator=rng())
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "augment",
    (
        augmix,
        functools.partial(augmix, all_operations=True),
        functools.partial(augmix, blended=True, width=1, depth=4),
        hybrid_augment,
        functools.partial(hybrid_augment, mode="official"),
        functools.partial(hybrid_augment, kernel_size=1, single_probability=1.0),
    ),
)
def test_output_and_determinism(augment: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    images = random_images(*shape)
    before = images.clone()
    out = augment(images=images, generator=rng(1))
    assert out.shape == images.shape and out.dtype == images.dtype
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(out, augment(images=images, generator=rng(1)))
    assert any(not torch.equal(out, augment(images=images, generator=rng(seed))) for seed in range(2, 6))


@pytest.mark.parametrize("augment", (augmix, hybrid_augment))
def test_global_generators_are_neither_read_nor_moved(augment: Callable[..., Tensor]) -> None:
    images = random_images(4, 3, 8, 8)

    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    random.seed(1)
    before = states()
    first = augment(images=images, generator=rng())
    assert states() == before
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    assert torch.equal(augment(images=images, generator=rng()), first)


# AugMix


def test_augmix_restores_the_global_generators_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data.auto_augment import AugMixAugment

    def fail(self: AugMixAugment, image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(AugMixAugment, "__call__", fail)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(MemoryError):
        augmix(images=random_images(2, 1, 8, 8), generator=rng())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_augmix_draws_for_each_image_on_its_own() -> None:
    image = random_images(1, 3, 16, 16)
    same = augmix(images=image.repeat(24, 1, 1, 1), generator=rng())
    assert len({tuple(one.flatten().tolist()) for one in same}) == 24
    batch = random_images(5, 3, 16, 16)
    assert torch.equal(augmix(images=batch, generator=rng())[:2], augmix(images=batch[:2], generator=rng()))


@pytest.mark.parametrize("channels", (1, 3))
def test_augmix_works_in_eight_bits_and_fills_with_black(channels: int) -> None:
    white = torch.ones(60, channels, 16, 16)
    out = augmix(images=white, generator=rng(), severity=10.0, width=1)
    torch.testing.assert_close(255 * out, (255 * out).round(), atol=1e-4, rtol=0)
    assert out.min() < 0.3  # timm's own grey would leave at least 0.5
    if channels == 3:
        assert torch.equal(out[:, 0], out[:, 1])


def test_augmix_keeps_images_of_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.data.auto_augment as timms

    for name in timms.NAME_TO_OP:
        monkeypatch.setitem(timms.NAME_TO_OP, name, lambda image, *given, **more: image)
    images = (torch.arange(256) / 255).view(1, 1, 16, 16)
    torch.testing.assert_close(augmix(images=images, generator=rng(), blended=True), images, atol=1e-6, rtol=0)


def test_augmix_grows_with_the_severity() -> None:
    ramp = torch.linspace(0.1, 0.9, 32).expand(1, 3, 32, 32).repeat(200, 1, 1, 1)
    size = [(augmix(images=ramp, generator=rng(), severity=s) - ramp).abs().mean() for s in (0.0, 1.0, 3.0, 10.0)]
    assert size == sorted(size) and size[3] > 2 * size[0]


def test_augmix_severity_is_the_largest_strength_in_tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.data.auto_augment as timms

    turns: list[float] = []
    shifts: list[float] = []

    def rotate(image: Image.Image, degrees: float, **given: Any) -> Image.Image:
        assert given == {"fillcolor": 0, "resample": Image.Resampling.BILINEAR}
        turns.append(abs(degrees))
        return image

    def shift(image: Image.Image, share: float, **given: Any) -> Image.Image:
        shifts.append(abs(share))
        return image

    monkeypatch.setitem(timms.NAME_TO_OP, "Rotate", rotate)
    monkeypatch.setitem(timms.NAME_TO_OP, "TranslateXRel", shift)
    augmix(images=random_images(400, 1, 4, 4), generator=rng(), severity=4.0)
    for drawn, largest in ((turns, 12.0), (shifts, 4 / 30)):
        assert largest * 0.97 < max(drawn) <= largest
        assert np.mean(drawn) == pytest.approx(largest / 2, rel=0.15)


def test_augmix_leaves_out_what_overlaps_with_imagenet_c(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.data.auto_augment as timms

    used: list[str] = []
    for name in timms.NAME_TO_OP:
        monkeypatch.setitem(timms.NAME_TO_OP, name, lambda image, *given, name=name, **more: used.append(name) or image)
    augmix(images=random_images(60, 1, 4, 4), generator=rng())
    nine = set(used)
    assert len(nine) == 9
    augmix(images=random_images(60, 1, 4, 4), generator=rng(), all_operations=True)
    assert {name.removesuffix("Increasing") for name in set(used) - nine} == {
        "Color",
        "Contrast",
        "Brightness",
        "Sharpness",
    }


def test_augmix_is_a_convex_mixture_of_width_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.data.auto_augment as timms

    calls: list[int] = []

    def black(image: Image.Image, *given: Any, **more: Any) -> Image.Image:
        calls.append(1)
        return Image.new(image.mode, image.size)

    for name in timms.NAME_TO_OP:
        monkeypatch.setitem(timms.NAME_TO_OP, name, black)
    n = 300
    out = augmix(images=torch.ones(n, 1, 2, 2), generator=rng(), width=5, depth=2)
    assert len(calls) == n * 5 * 2
    kept = out.amax((1, 2, 3))  # 1 - m with m ~ U(0, 1)
    assert kept.mean().item() == pytest.approx(0.5, abs=0.06) and kept.std().item() == pytest.approx(0.289, abs=0.03)
    calls.clear()
    augmix(images=torch.ones(n, 1, 2, 2), generator=rng(), width=1)
    assert len(calls) / n == pytest.approx(2, abs=0.2)  # depth uniform on {1, 2, 3}


def test_augmix_refuses_two_channels() -> None:
    with pytest.raises(UserError, match="2 channels, expected 1 or 3"):
        augmix(images=random_images(1, 2, 8, 8), generator=rng())


# The operations of HybridAugment


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("level", (0.1, 2.9, 7.7))
def test_operations_on_values_equal_pillows(channels: int, level: float) -> None:
    images = eight_bits(3, channels, 12, 17) * torch.tensor([1.0, 0.5, 0.0]).view(3, 1, 1, 1)
    images = (255 * images).round() / 255
    levels = torch.full((3,), level)
    pillow: dict[str, Callable[[Image.Image], Image.Image]] = {
        "equalize": ImageOps.equalize,
        "posterize": lambda image: ImageOps.posterize(image, 4 - int(level * 4 / 10)),
        "solarize": lambda image: ImageOps.solarize(image, 256 - int(level * 256 / 10)),
        "autocontrast": ImageOps.autocontrast,
    }
    for name, reference in pillow.items():
        ours = operations.OPERATIONS[name](images, levels, torch.ones(3))
        expected = torch.stack([from_pil(reference(to_pil(image))) for image in images])
        bound = 1.01 / 255 if name == "autocontrast" else 1e-6  # Pillow cuts its values to 8 bits
        torch.testing.assert_close(ours, expected, atol=bound, rtol=0, msg=name)


@pytest.mark.parametrize("sign", (1, -1))
@pytest.mark.parametrize("level", (0.9, 3.0, 9.0))
def test_operations_on_places_equal_pillows(level: float, sign: int) -> None:
    height, width = 14, 21
    images = eight_bits(1, 3, height, width)
    given = torch.tensor([level]), torch.tensor([float(sign)])
    shear = sign * 0.03 * level
    across, down = (sign * int(level * size / 3 / 10) for size in (width, height))
    matrices = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, across, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, down),
    }
    turned = to_pil(images[0]).rotate(sign * int(level * 3), resample=Image.Resampling.BILINEAR)
    references = {"rotate": turned} | {
        name: to_pil(images[0]).transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        for name, matrix in matrices.items()
    }
    for name, expected in references.items():
        ours = operations.OPERATIONS[name](images, *given)[0]
        torch.testing.assert_close(ours, from_pil(expected), atol=1.01 / 255, rtol=0, msg=name)


def test_operations_are_drawn_alike() -> None:
    n = 3000
    image = torch.linspace(0.2, 0.7, 36).view(1, 1, 6, 6)
    seen = []
    for name in operations.OPERATIONS:
        calls = {other: (lambda images, levels, signs: images) for other in operations.OPERATIONS}
        calls[name] = lambda images, levels, signs: -signs.view(-1, 1, 1, 1) * levels.view(-1, 1, 1, 1) + 0 * images
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operations, "OPERATIONS", calls)
            out = operations.random_operations(image.repeat(n, 1, 1, 1), generator=rng(), severity=3.0)
        changed = out[:, 0, 0, 0] != image[0, 0, 0, 0]
        seen.append(changed)
        assert changed.float().mean().item() == pytest.approx(1 / 9, abs=0.02)
        drawn = out[changed, 0, 0, 0]
        assert 0.1 <= drawn.abs().min() < 0.3 and 2.8 < drawn.abs().max() <= 3.0
        assert (drawn > 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.stack(seen).sum(0).eq(1).all()


# HybridAugment++


def reference_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """3 x 3 Gaussian with mirrored border of (c, h, w), by sums of shifted copies."""
    weight = np.exp(-0.5 / sigma**2)
    kernel = np.array([weight, 1, weight]) / (1 + 2 * weight)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    _, height, width = image.shape
    return sum(kernel[i] * kernel[j] * padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))


def test_bands_are_a_gaussian_blur_and_the_rest() -> None:
    images = random_images(3, 2, 7, 11)
    low, high = bands(images, 3, 0.5)
    expected = np.stack([reference_blur(image, 0.5) for image in images.double().numpy()])
    np.testing.assert_allclose(low.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(low + high, images, atol=1e-7, rtol=0)
    torch.testing.assert_close(bands(images, 1, 0.5)[0], images)


def test_precision_does_not_follow_autocast() -> None:
    images = random_images(6, 3, 16, 16)
    expected = hybrid_augment(images=images, generator=rng(), single_probability=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hybrid_augment(images=images, generator=rng(), single_probability=1.0), expected)


@pytest.mark.parametrize("mode", ("per_image", "official"))
def test_pair_probability_zero_is_exactly_the_identity(mode: str) -> None:
    images = random_images(5, 3, 8, 8)
    out = hybrid_augment(images=images, generator=rng(), variant="P", pair_probability=0.0, mode=mode)
    assert torch.equal(out, images)


def partner_of(high: Tensor, candidates: Tensor) -> list[int]:
    distance = (high[:, None] - candidates[None]).flatten(2).norm(dim=2)
    assert distance.amin(1).max() < 1e-5
    return distance.argmin(1).tolist()


def test_paired_keeps_its_low_and_takes_anothers_high_frequencies() -> None:
    images = random_images(8, 3, 10, 10)
    low, high = bands(images, 3, 0.5)
    out = paired(images, generator=rng(), **PAIRED)
    partners = partner_of(out - low, high)
    assert sorted(partners) == list(range(8)) and partners != list(range(8))
    # By linearity, in any band of frequencies: spectrum(out_i) = spectrum(low_i) + spectrum(high_j).
    spectra = torch.fft.fft2(low) + torch.fft.fft2(high)[partners]
    torch.testing.assert_close(torch.fft.fft2(out), spectra, atol=1e-4, rtol=0)
    torch.testing.assert_close(hybrid_augment(images=images, generator=rng(), variant="P", pair_probability=1.0,
                                              swap_amplitude=False), out.clamp(0, 1))  # fmt: skip


def test_recombined_has_one_amplitude_and_the_others_phase() -> None:
    one, other = random_images(4, 3, 9, 10), random_images(4, 3, 9, 10, seed=1)
    out = recombined(amplitude=one, phase=other)
    for i in range(4):
        size, angle = (np.fft.fftn(part[i].double().numpy()) for part in (one, other))
        by_hand = np.fft.ifftn(np.abs(size) * np.exp(1j * np.angle(angle)))
        assert np.abs(by_hand.imag).max() < 1e-9
        np.testing.assert_allclose(out[i].numpy(), by_hand.real, atol=1e-5)
        np.testing.assert_allclose(np.abs(np.fft.fftn(out[i].numpy())), np.abs(size), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(out.mean((1, 2, 3)), one.mean((1, 2, 3)))  # the amplitude of frequency 0
    torch.testing.assert_close(out.square().sum((1, 2, 3)), one.square().sum((1, 2, 3)))  # Parseval
    torch.testing.assert_close(recombined(amplitude=one, phase=one), one)


def test_paired_swap_takes_the_amplitudes_of_a_third_images_low_frequencies() -> None:
    images = random_images(6, 3, 8, 8)
    low, high = bands(images, 3, 0.5)
    out = paired(images, generator=rng(3), **{**PAIRED, "swap_probability": 1.0})
    donors = []
    for i in range(6):
        fits = [
            (j, k)
            for j in range(6)
            for k in range(6)
            if torch.allclose(
                out[i], recombined(amplitude=low[k : k + 1], phase=low[i : i + 1])[0] + high[j], atol=1e-5
            )
        ]
        assert len(fits) == 1
        donors.append(fits[0])
    for column in zip(*donors, strict=True):
        assert sorted(column) == list(range(6))
    assert any(j != k for j, k in donors), "two permutations"


@pytest.mark.parametrize("mode", ("per_image", "official"))
def test_coins_are_tossed_for_each_image_or_once(mode: str) -> None:
    images = random_images(40, 1, 6, 6)
    rates = []
    for seed in range(60):
        out = paired(images, generator=rng(seed), **{**PAIRED, "probability": 0.6, "mode": mode})
        changed = (out != images).flatten(1).any(1).float().mean().item()
        rates.append(changed)
    assert np.mean(rates) == pytest.approx(0.6, abs=0.2 if mode == "official" else 0.05)
    # An image may be its own partner, so not quite all of a batch changes.
    assert sum(0.3 < rate < 0.85 for rate in rates) == (60 if mode == "per_image" else 0)


def test_single_never_looks_at_other_images() -> None:
    image = random_images(1, 3, 8, 8)
    others = torch.cat((image, torch.zeros(5, 3, 8, 8)))
    out = single(others, generator=rng(), **SINGLE)
    more = single(torch.cat((image, torch.ones(5, 3, 8, 8))), generator=rng(), **SINGLE)
    assert torch.equal(out[0], more[0])


@pytest.mark.parametrize("probability", (0.0, 0.5))
def test_single_alters_each_image_once_or_makes_a_hybrid(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(images: Tensor, *, generator: torch.Generator, severity: float) -> Tensor:
        return images + 0.1 if images.mean() < 0.15 else images.flip(3) + 0.01

    monkeypatch.setattr("pipeline.transforms.hybrid_augment.random_operations", add)
    images = 0.2 * random_images(200, 1, 6, 6)
    first = images + 0.1
    second = add(first, generator=rng(), severity=3.0)
    assert not torch.equal(first, second)
    settings = {**SINGLE, "swap_amplitude": False, "probability": probability}
    out = single(images, generator=rng(), **settings)
    parts = [bands(part, 3, 0.5) for part in (first, second)]
    expected = torch.stack((first, parts[0][0] + parts[1][1], parts[1][0] + parts[0][1]))
    distance = (out - expected).abs().amax((2, 3, 4))
    assert distance.amin(0).max() < 1e-6
    counts = torch.bincount(distance.argmin(0), minlength=3) / 200
    wanted = torch.tensor([1 - probability, probability / 2, probability / 2])
    torch.testing.assert_close(counts, wanted, atol=0.1, rtol=0)


def test_single_swap_recombines_the_low_frequencies_with_their_altered_self(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.transforms.hybrid_augment.random_operations", lambda images, **_: images.flip(3))
    n = 600
    image = 0.4 + 0.2 * random_images(1, 3, 6, 6)
    out = single(image.repeat(n, 1, 1, 1), generator=rng(), **SINGLE)
    candidates = []
    for low_side, high_side in ((image.flip(3), image), (image, image.flip(3))):
        low, high = bands(low_side, 3, 0.5)[0].flip(3), bands(high_side, 3, 0.5)[1]
        mirrored = low.flip(3)
        swapped = recombined(amplitude=mirrored, phase=low), recombined(amplitude=low, phase=mirrored)
        candidates += [low + high, *(part + high for part in swapped)]
    distance = (out[:, None] - torch.cat(candidates)).abs().amax((2, 3, 4))
    assert distance.amin(1).max() < 1e-5
    counts = torch.bincount(distance.argmin(1), minlength=6) / n
    torch.testing.assert_close(counts, torch.tensor([1 / 4, 1 / 8, 1 / 8] * 2), atol=0.07, rtol=0)


def test_official_single_wraps_where_the_default_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.transforms.hybrid_augment.random_operations", lambda images, **_: images + 0.3)
    settings = {**SINGLE, "swap_amplitude": False}
    images = torch.full((4, 1, 6, 6), 0.9)
    clipped = single(images, generator=rng(), **settings)
    assert torch.equal(clipped, torch.ones_like(images))
    wrapped = single(images, generator=rng(), **{**settings, "mode": "official"})
    values = {round(255 * value) for value in wrapped.unique().tolist()}
    assert values <= {int(255 * 1.2) - 256, int(255 * 1.5) - 256, int(255 * 1.2) - 255, int(255 * 1.5) - 255}


def test_plain_hybrids_preserve_the_batch_mean() -> None:
    images = random_images(32, 3, 12, 12)
    out = paired(images, generator=rng(), **PAIRED)
    torch.testing.assert_close(out.mean(0), images.mean(0), atol=1e-6, rtol=0)  # every low and every high occurs once


# The trainings


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def batch() -> dict[str, Any]:
    return {"images": eight_bits(6, 3, 8, 8), "labels": torch.arange(6) % 5}


@pytest.mark.parametrize("training", (train_augmix, train_hybrid))
def test_trainings_see_the_clean_images_alone_in_eval_mode(training: Callable[..., Any]) -> None:
    net, given = small_net().eval(), batch()
    state = rng(3)
    before = state.get_state()
    loss, metrics = training(classifier=net, generator=state, label_smoothing=0.1, **given)
    logits = net(given["images"])
    torch.testing.assert_close(loss, F.cross_entropy(logits, given["labels"], label_smoothing=0.1))
    assert metrics.keys() == {"accuracy"}
    assert metrics["accuracy"] == (logits.argmax(1) == given["labels"]).float().mean()
    assert torch.equal(state.get_state(), before), "nothing is drawn"


@pytest.mark.parametrize("training", (train_augmix, train_hybrid))
def test_trainings_run_a_backward_pass_and_leave_labels_and_images(training: Callable[..., Any]) -> None:
    net, given = small_net(), batch()
    kept = {name: value.clone() for name, value in given.items()}
    loss, metrics = training(classifier=net, generator=rng(), **given)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(value.shape == () for value in metrics.values())
    for name, value in given.items():
        assert torch.equal(value, kept[name])


def seen_by(net: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    return seen


def test_augmix_loss_is_cross_entropy_plus_divergence() -> None:
    net, given = small_net(), batch()
    seen = seen_by(net)
    loss, metrics = train_augmix(classifier=net, generator=rng(4), jsd_weight=7.0, **given)
    [inputs] = seen  # one forward pass
    clean, *views = inputs.chunk(3)
    assert torch.equal(clean, given["images"])
    assert not torch.equal(views[0], views[1])
    repeated = augmix(images=given["images"].repeat(2, 1, 1, 1), generator=rng(4))
    assert torch.equal(torch.cat(views), repeated)
    p = net(inputs).softmax(1).view(3, 6, 5)
    mean = p.mean(0)
    divergence = (p * (p / mean).log()).sum(2).mean()
    torch.testing.assert_close(metrics["divergence"], divergence, atol=1e-6, rtol=1e-4)
    expected = F.nll_loss(p[0].log(), given["labels"]) + 7 * divergence
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)


def test_augmix_without_divergence_sees_one_view() -> None:
    net, given = small_net(), batch()
    seen = seen_by(net)
    loss, metrics = train_augmix(classifier=net, generator=rng(4), jsd_weight=0.0, **given)
    assert torch.equal(seen[0], augmix(images=given["images"], generator=rng(4)))
    torch.testing.assert_close(loss, F.cross_entropy(net(seen[0]), given["labels"]))
    assert metrics.keys() == {"augmented_accuracy"}


@pytest.mark.parametrize("mode", ("per_image", "official"))
@pytest.mark.parametrize(("variant", "views"), (("PS", 2), ("P", 2), ("S", 1)))
def test_hybrid_loss_is_the_sum_over_the_views(variant: str, views: int, mode: str) -> None:
    net, given = small_net(), batch()
    seen = seen_by(net)
    options = {"variant": variant, "pair_probability": 1.0, "single_probability": 1.0, "mode": mode}
    loss, _ = train_hybrid(classifier=net, generator=rng(5), **options, **given)
    [inputs] = seen  # one forward pass
    parts = inputs.chunk(views)
    expected = sum(F.cross_entropy(logits, given["labels"]) for logits in net(inputs).chunk(views))
    torch.testing.assert_close(loss, expected)
    assert torch.equal(parts[0], given["images"]) == (variant == "P")
    # The last view is what the augmentation alone gives from the same draws.
    alone = hybrid_augment(images=given["images"], generator=rng(5), **options)
    assert torch.equal(parts[-1].clamp(0, 1), alone)
    outside = bool(((inputs < 0) | (inputs > 1)).any())
    assert outside == (mode == "official" and variant != "S")


@pytest.mark.parametrize("name", ("augmix", "hybrid_augment"))
def test_options_of_training_and_augmentation_agree(name: str) -> None:
    training, augmentation = (registry.options(kind, name) for kind in ("training", "augmentation"))
    assert {key: training[key] for key in augmentation} == augmentation
    assert set(training) - set(augmentation) <= {"jsd_weight", "label_smoothing"}
    signature = inspect.signature(registry.load("augmentation", name))
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in signature.parameters.values())
