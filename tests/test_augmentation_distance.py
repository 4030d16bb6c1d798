"""Distances between augmentations and corruptions: features that are the pixels, so that all is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import registry
from pipeline.contracts import UserError, View, derive_seed
from pipeline.measurements._augmentation_draws import features_of
from pipeline.measurements.augmentation_distance import COLUMNS, NONE, augmentation_distance
from pipeline.models.classifier import build
from pipeline.models.nets import lenet
from pipeline.numerics.box import Box
from pipeline.numerics.frequency import flip
from tests.oracles import NanBeyond, affine, grey_images, network

SHAPE = (1, 4, 4)


def on_pixels(classes: int = 3) -> nn.Module:
    """A classifier whose features are the pixels themselves."""
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double().eval().requires_grad_(False)


def shift(*, images: Tensor, generator: torch.Generator, width: float = 1.0) -> Tensor:
    """Each image plus noise of its own."""
    return images + width * torch.rand(images.shape, generator=generator, dtype=torch.float64).to(images.device)


def same_shift(*, images: Tensor, generator: torch.Generator) -> Tensor:
    """All images plus the same noise."""
    return images + torch.rand(images.shape[1:], generator=generator, dtype=torch.float64)


def corruption(images: Tensor, severity: int = 3, name: str = "noise") -> View:
    return View(name, "corruption", severity, images, {"suite": "c", "family": "noise"})


def seeds_of(n: int) -> Tensor:
    return 7919 * torch.arange(n).flip(0) + 11


def measured(images: Tensor, *views: View, model: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"seeds": seeds_of(len(images)), "batch_size": 64, "augmentations": {"a": shift}}
    labels = torch.zeros(len(images), dtype=torch.int64)
    table = augmentation_distance(
        model=model or on_pixels(), images=images, labels=labels, views=views, **(given | options)
    )
    assert set(table) == {"row", *COLUMNS}
    assert len({len(column) for column in table.values()}) == 1
    return {name: np.array(column, dtype=object) for name, column in table.items()}


def distances(table: Mapping[str, Any], augmentation: str, view: str = "noise") -> np.ndarray[Any, Any]:
    """In the order of the rows."""
    keep = (table["augmentation"] == augmentation) & (table["corruption"] == view)
    assert sorted(table["row"][keep]) == list(range(keep.sum()))
    order = np.argsort(table["row"][keep])
    return table["distance"][keep][order].astype(float)


def redrawn(image: Tensor, seed: int, augment: Callable[..., Tensor], draws: int, name: str = "a") -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    return augment(images=image.repeat(draws, 1, 1, 1), generator=generator).flatten(1)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_nearest_draw_of_each_image(metric: str) -> None:
    images = grey_images(5, SHAPE, spread=0.4)
    seen = corruption(grey_images(5, SHAPE, spread=0.5, seed=2))
    table = measured(images, seen, metric=metric, draws=6)
    assert set(table["metric"]) == {metric} and set(table["mode"]) == {"per_image"}
    for row, seed in enumerate(seeds_of(5).tolist()):
        drawn = redrawn(images[row], seed, shift, 6).numpy()
        corrupted = seen.images[row].flatten().numpy()
        for name, candidates in (("a", drawn), (NONE, images[row].flatten().numpy()[None])):
            if metric == "l2":
                expected = min(np.linalg.norm(one - corrupted) for one in candidates)
            else:
                lengths = np.linalg.norm(candidates, axis=1) * np.linalg.norm(corrupted)
                expected = min(1 - candidates @ corrupted / lengths)
            assert distances(table, name)[row] == pytest.approx(expected, rel=1e-9)


def test_minimal_sample_distance_is_that_of_mean_features_under_common_draws() -> None:
    images = grey_images(6, SHAPE, spread=0.4)
    views = [corruption(grey_images(6, SHAPE, spread=0.5, seed=i), name=f"v{i}") for i in (2, 3)]
    table = measured(images, *views, mode="mean", draws=9)
    assert set(table["metric"]) == {"l2"}
    first = int(seeds_of(6).min())
    drawn = torch.stack([redrawn(image, first, shift, 9) for image in images]).numpy()  # (n, draws, d)
    noise = drawn - images.flatten(1).numpy()[:, None]
    assert np.allclose(noise, noise[:1]), "the same draws for all images"
    for view in views:
        corrupted = view.images.flatten(1).mean(0).numpy()
        expected = min(np.linalg.norm(drawn[:, k].mean(0) - corrupted) for k in range(9))
        assert distances(table, "a", view.name).mean() == pytest.approx(expected)
        clean = np.linalg.norm(images.flatten(1).mean(0).numpy() - corrupted)
        assert distances(table, NONE, view.name).mean() == pytest.approx(clean)
    assert distances(table, "a", "v2").std() > 0


def test_what_an_augmentation_reaches_is_at_no_distance() -> None:
    images = grey_images(4, SHAPE, spread=0.4)

    def mirrored(*, images: Tensor, generator: torch.Generator) -> Tensor:
        keep = torch.arange(len(images)).view(-1, 1, 1, 1) < len(images) - 1
        return torch.where(keep, images, images.flip(3))  # the last draw alone

    for mode in ("per_image", "mean"):
        both = (corruption(images.flip(3), name="mirror"), corruption(images, name="nothing"))
        table = measured(images, *both, mode=mode, augmentations={"m": mirrored}, draws=5)
        for name in ("mirror", "nothing"):
            assert distances(table, "m", name) == pytest.approx(0, abs=1e-12)
        assert distances(table, NONE, "nothing") == pytest.approx(0, abs=1e-12)
        assert distances(table, NONE, "mirror").mean() > 1e-3


def real_augmentations() -> dict[str, Callable[..., Tensor]]:
    names = registry.names("augmentation")
    assert {"prime", "augmix", "hybrid_augment"} <= set(names)
    return {name: registry.load("augmentation", name) for name in names}


@pytest.mark.parametrize("name", registry.names("augmentation"))
def test_augmentations_draw_alike_for_all_images_of_one_size(name: str) -> None:
    """On which mode `mean` rests: the same draw is the same transform of any image."""
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    states = []
    for image in (*images, torch.zeros(3, 8, 8)):
        generator = torch.Generator().manual_seed(5)
        registry.load("augmentation", name)(images=image.repeat(6, 1, 1, 1), generator=generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


@pytest.mark.parametrize("mode", ["per_image", "mean"])
def test_neither_batch_nor_order_matters(mode: str) -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = (images + 0.2).clamp(0, 1)
    model = network((3, 8, 8), 4).float()
    options: dict[str, Any] = {"model": model, "mode": mode, "draws": 4, "augmentations": real_augmentations()}
    whole = measured(images, corruption(seen), **options)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = measured(images[order], corruption(seen[order]), seeds=seeds_of(5)[order], **options)
    parts = [measured(images, corruption(seen), batch_size=size, **options) for size in (1, 3)]
    alone = measured(
        images, corruption(seen), **(options | {"augmentations": {"augmix": real_augmentations()["augmix"]}})
    )
    for name in (NONE, *options["augmentations"]):
        found = distances(whole, name)
        assert np.all(found >= -1) and found.std() > 0
        assert distances(permuted, name) == pytest.approx(found[order.numpy()], rel=1e-4, abs=1e-6)
        for part in parts:
            assert distances(part, name) == pytest.approx(found, rel=1e-4, abs=1e-6)
    assert distances(alone, "augmix") == pytest.approx(distances(whole, "augmix"))


def test_more_draws_come_nearer_and_copies_may_be_augmented_apart() -> None:
    images = grey_images(6, SHAPE, spread=0.4)
    seen = corruption(grey_images(6, SHAPE, spread=0.5, seed=2) + 0.4)
    few, many = (distances(measured(images, seen, draws=k, metric="l2"), "a") for k in (2, 20))
    assert (many <= few).all() and (many < few).any()
    once, apart = (
        distances(measured(images, seen, draws=20, together=k, augmentations={"a": same_shift}, metric="l2"), "a")
        for k in (None, 1)
    )
    assert (apart <= once).all() and (apart < once).any()  # in one call all draws are the same
    halves = measured(images, seen, draws=20, together=7, metric="l2")
    assert distances(halves, "a") == pytest.approx(many)  # one stream, cut into calls


def test_which_rows_there_are() -> None:
    images = grey_images(4, SHAPE)
    views = [corruption(images + 0.1 * severity, severity, name) for name in "xy" for severity in (1, 3)]
    table = measured(images, *views, augmentations={"a": shift, "b": same_shift}, draws=2, samples=3)
    assert len(table["row"]) == 3 * 3 * 2
    assert set(table["severity"]) == {3} and set(table["row"]) == {0, 1, 2}
    assert set(table["suite"]) == {"c"} and set(table["family"]) == {"noise"}
    assert {(a, k) for a, k in zip(table["augmentation"], table["draws"], strict=True)} == {
        ("a", 2),
        ("b", 2),
        (NONE, 1),
    }
    whole = measured(images, *views, augmentations={"a": shift}, draws=2)
    assert distances(whole, "a", "y")[:3] == pytest.approx(distances(table, "a", "y"))
    easy = measured(images, *views, draws=2, severity=1, metric="l2")
    assert distances(easy, NONE, "x") == pytest.approx(0.1 * 4)
    unnamed = [View("x", "corruption", 3, images, {})]
    assert set(measured(images, *unnamed)["family"]) == {None}


def test_a_distance_that_is_not_known_is_null() -> None:
    images = grey_images(4, SHAPE)
    black = images.clone()
    black[1] = 0
    table = measured(images, corruption(black), draws=2)
    nothing = np.array([value is None for value in table["distance"]])
    assert set(table["row"][nothing]) == {1} and nothing.sum() == 2
    assert distances(measured(images, corruption(black), draws=2, metric="l2"), NONE)[1] == pytest.approx(
        float(images[1].norm())
    )

    class Broken(nn.Module):
        def __init__(self, through: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.through, self.head = through, on_pixels()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(self.through(images))
            return logits

    for mode, metric in (("per_image", "cosine"), ("per_image", "l2"), ("mean", "l2")):
        for through in (torch.log, torch.reciprocal):  # of zeros: infinite
            model = Broken(through)
            bad = measured(images, corruption(0 * images), model=model, mode=mode, metric=metric, draws=2)
            assert all(value is None for value in bad["distance"])
    lost = measured(images, corruption(images - 1), model=Broken(torch.sqrt), draws=2)  # NaN
    assert all(value is None for value in lost["distance"])


def test_flipped_data_are_augmented_as_pixels() -> None:
    class Unflipped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(flip(images))
            return logits

    images = grey_images(4, SHAPE)
    seen = grey_images(4, SHAPE, spread=0.4, seed=5)
    model = on_pixels()
    pixels = measured(images, corruption(seen), model=model, draws=3)
    behind = measured(
        flip(images), corruption(flip(seen)), model=Unflipped(model), draws=3, box=Box(0, 1, flipped=True)
    )
    assert distances(behind, "a") == pytest.approx(distances(pixels, "a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mean", "metric": "cosine"}, "expected l2"),
        ({"augmentations": {NONE: shift}}, "stands for the clean images"),
        ({"box": Box(-0.2, 1.2)}, "no pixels"),
        ({"severity": 2}, "severity: given 2"),
        ({"model": affine(SHAPE, 3)}, "no linear layer"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    images = grey_images(3, SHAPE)
    with pytest.raises(UserError, match=message):
        measured(images, corruption(images), **options)


TINY: Sequence[tuple[str, dict[str, Any]]] = (
    ("resnet18", {"channels": [4, 4, 4, 8]}),
    ("vit_tiny_patch16_224", {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}),
    ("convnext_atto", {"dims": [4, 4, 4, 8], "depths": [1, 1, 1, 1]}),
)


@pytest.mark.parametrize(("name", "options"), TINY, ids=lambda value: value if isinstance(value, str) else "")
def test_features_are_timms_before_the_head(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    recipe = {"model": name, "model_options": options, "stem": "default", "classes": 3, "channels": 1}
    model = build(recipe | {"mean": [0.5], "std": [0.2]}).eval()
    images = torch.rand(5, 1, 32, 32) if name != "vit_tiny_patch16_224" else torch.rand(5, 1, 16, 16)
    net: Any = model.net
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features((images - 0.5) / 0.2), pre_logits=True)
    assert torch.allclose(features_of(model, images, 2), wanted, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_features_of_other_nets() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 1, 12, 12)
    net = lenet(num_classes=3, in_chans=1, size=(12, 12)).eval()
    assert isinstance(net, nn.Sequential)
    assert torch.allclose(features_of(net, images, 2), net[:-1](images))
    maps = nn.Conv2d(1, 5, 3)
    pooled = nn.Sequential(maps, nn.Conv2d(5, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert torch.allclose(features_of(pooled, images, 2), maps(images).mean((2, 3)))
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(144, 4))
    assert torch.allclose(features_of(tokens, images, 2), images.flatten(2).mean(1))


def test_hooks_do_not_stay_after_an_error() -> None:
    model = NanBeyond(on_pixels(), torch.zeros(SHAPE), 1.0)
    with pytest.raises(RuntimeError):
        features_of(model, torch.zeros(2, 1, 4, 5), 2)
    assert not any(module._forward_pre_hooks for module in model.modules())
