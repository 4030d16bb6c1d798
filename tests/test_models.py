"""Classifiers: normalisation inside, small stems, brought weights, and analyses that leave them as they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import store
from pipeline.contracts import UserError
from pipeline.models.classifier import Classifier, build
from pipeline.models.integrity import fingerprint, frozen
from pipeline.models.weights import load_weights, read_weights
from pipeline.specs import complete
from pipeline.stages.inputs import load_classifier
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train

RECIPE: dict[str, Any] = {
    "model": "resnet18",
    "model_options": {"channels": [8, 8, 8, 8]},
    "stem": "small",
    "classes": 5,
    "channels": 1,
    "mean": [0.5],
    "std": [0.25],
}


def linear(classes: int = 10, pixels: int = 64) -> nn.Module:
    """A factory such as a user would bring."""
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.safetensors"
    prepare(spec=complete("prepare", {"source": "digits", "split": "train", "train_size": 60}), code="", out=path)
    return path


def test_normalisation_is_inside() -> None:
    net = nn.Flatten()
    images = torch.rand(2, 3, 4, 4)
    logits = Classifier(net, [0.1, 0.2, 0.3], [1.0, 2.0, 4.0])(images)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([1.0, 2, 4]).view(1, 3, 1, 1)
    assert torch.allclose(logits, expected.flatten(1))


@pytest.mark.parametrize("model", ["resnet18", "resnet10t", "seresnet18"])
def test_small_stem_keeps_the_resolution(model: str) -> None:
    net = build({**RECIPE, "model": model}).net
    stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
    assert stem(torch.zeros(1, 1, 8, 8)).shape[-2:] == (8, 8)


def test_small_stem_of_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="resnext26ts has no small-image stem"):
        build({**RECIPE, "model": "resnext26ts", "model_options": {}})


def test_any_timm_architecture_takes_its_own_options() -> None:
    options = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 1, "num_heads": 2}
    vit = build({**RECIPE, "model": "vit_tiny_patch16_224", "model_options": options, "stem": "default"})
    assert vit(torch.zeros(2, 1, 8, 8)).shape == (2, 5)
    with pytest.raises(UserError, match="vit_tiny_patch16_224 has no small-image stem"):
        build({**RECIPE, "model": "vit_tiny_patch16_224", "model_options": options})
    with pytest.raises(UserError, match="cannot be built with the options .*'colour'"):
        build({**RECIPE, "model_options": {"colour": 3}})


def brought(tmp_path: Path, state: Any, data: Path, **extra: Any) -> Path:
    torch.save(state, tmp_path / "w.pt")
    given = {"model": "tests.test_models:linear", "weights": str(tmp_path / "w.pt"), "mean": [0.0], "std": [1.0]}
    out = tmp_path / "model.safetensors"
    train(spec=complete("train", {**given, "seed": None, **extra}), code="", data=data, out=out)
    return out


def test_brought_classifier_is_the_one_that_was_saved(tmp_path: Path, data: Path) -> None:
    net = linear()
    state = {"model": {"weights": {f"module.{name}": value for name, value in net.state_dict().items()}}}
    path = brought(tmp_path, state, data, key="model.weights", prefix="module.", mean=[0.5], std=[2.0])
    classifier, meta = load_classifier(path, torch.device("cpu"))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(classifier(images), net((images - 0.5) / 2))
    assert meta["spec"]["seed"] is None
    assert meta["history"] == []


def test_brought_weights_that_do_not_fit_are_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="weights of another architecture"):
        brought(tmp_path, linear(pixels=16).state_dict(), data)
    with pytest.raises(UserError, match="lacks 1 entries \\(1.bias\\)"):
        brought(tmp_path, {"1.weight": torch.zeros(10, 64)}, data)
    with pytest.raises(UserError, match="has no key 'ema'; it holds model"):
        brought(tmp_path, {"model": {}}, data, key="ema")
    with pytest.raises(UserError, match="no state dict of tensors there"):
        brought(tmp_path, {"model": linear().state_dict()}, data)
    with pytest.raises(UserError, match="no name starts with 'net.'"):
        brought(tmp_path, linear().state_dict(), data, prefix="net.")
    with pytest.raises(UserError, match="not finite"):
        brought(tmp_path, {"1.weight": torch.full((10, 64), torch.nan), "1.bias": torch.zeros(10)}, data)
    with pytest.raises(UserError, match="module 'tests.test_models' has no 'missing'"):
        brought(tmp_path, linear().state_dict(), data, model="tests.test_models:missing")


class Malicious:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("pwned"),))


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps(Malicious()), b"", b"not a file of weights"):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(UserError, match="not a plain torch state dict"):
            read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "pwned").exists()


def test_safetensors_weights_are_read_too(tmp_path: Path) -> None:
    net = linear()
    store.write_tensors(tmp_path / "w.safetensors", {k: v.numpy() for k, v in net.state_dict().items()}, {})
    other = linear()
    load_weights(other, read_weights(tmp_path / "w.safetensors"), "w")
    assert fingerprint(other) == fingerprint(net)


def test_frozen_notices_a_change_also_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    with frozen(model) as same:
        assert not same.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="changed the classifier"), frozen(model):
        model.train()(torch.rand(4, 1, 2, 2))
    with pytest.raises(RuntimeError, match="changed the classifier"), frozen(model):
        model[0].bias.data += 1
        raise ValueError


def test_trained_classifier_can_be_built_again_from_its_file_alone(tmp_path: Path, data: Path) -> None:
    options = {"epochs": 1, "batch_size": 32}
    spec = {"model": "resnet18", "model_options": {"channels": [8, 8, 8, 8]}, "stem": "small", "method": "standard"}
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        train(spec=complete("train", {**spec, "options": options}), code="c", data=data, out=path)
    assert paths[0].read_bytes() == paths[1].read_bytes(), "training is deterministic under its seed"
    classifier, meta = load_classifier(paths[0], torch.device("cpu"))
    tensors, _ = store.read_tensors(data)
    pixels = torch.from_numpy(np.array(tensors["validation_images"])).float() / 255
    accuracy = (classifier(pixels).argmax(1).numpy() == tensors["validation_labels"]).mean()
    assert meta["history"][-1]["validation_accuracy"] == pytest.approx(accuracy)
    assert meta["code"] == "c"
