"""The package's own networks: their shapes, what they compute, and their names in a config."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from pipeline.contracts import UserError
from pipeline.models.classifier import build
from pipeline.models.nets import NETS, lenet, mlp
from tests.tiny import tiny_config
from workflow.checks import check_model, own_models, timm_models
from workflow.common import ROOT, Plan


def recipe(model: str, side: int = 28, **options: Any) -> dict[str, Any]:
    shape = {"classes": 10, "channels": 1, "size": [side, side], "mean": [0.5], "std": [0.25]}
    return {"model": model, "model_options": options, "stem": "default", **shape}


def test_lenet_of_mnist_has_as_many_parameters_as_lenet_5_with_full_connections() -> None:
    net = build(recipe("lenet")).net
    convolutions, linear = 6 * (25 + 1) + 16 * (6 * 25 + 1), 120 * (400 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert sum(value.numel() for value in net.parameters()) == convolutions + linear
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("size", [(12, 12), (13, 20), (32, 32)])
def test_lenet_takes_images_of_other_sizes(size: tuple[int, int]) -> None:
    net = lenet(num_classes=3, in_chans=3, size=size)
    assert net(torch.zeros(1, 3, *size)).shape == (1, 3)


def test_lenet_refuses_images_that_leave_nothing() -> None:
    message = "lenet cannot be built with the options {}: images of 11 x 11 pixels, expected at least 12 x 12"
    with pytest.raises(UserError, match=message):
        build(recipe("lenet", side=11))


def test_mlp_of_depth_zero_is_affine() -> None:
    net = mlp(num_classes=2, in_chans=2, size=(2, 3), depth=0).double()
    images = torch.randn(5, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (weight, bias) = net.parameters()
    assert torch.allclose(net(images), images.flatten(1) @ weight.T + bias)


def test_mlp_has_hidden_layers_of_rectifiers() -> None:
    net = mlp(num_classes=2, in_chans=1, size=(1, 100))
    widths = [tuple(value.shape) for value in net.parameters() if value.ndim == 2]
    assert widths == [(256, 100), *[(256, 256)] * 4, (2, 256)]
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in net) == 5


@pytest.mark.parametrize("options", [{"depth": -1}, {"width": 0}, {"layers": 3}])
def test_mlp_refuses_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="mlp cannot be built with the options"):
        build(recipe("mlp", **options))


def test_names_in_a_config_are_those_of_the_networks() -> None:
    assert own_models() == set(NETS)
    assert not own_models() & timm_models(), "one name, one network"
    config = tiny_config()
    config["architectures"] = {name: {"model": name} for name in NETS}
    assert {spec["model"] for spec in Plan(config).classifiers.values()} == set(NETS)
    for wrong, near in (("lenett", "lenet"), ("lenet.mnist", None), ("resnet81", "resnet")):
        with pytest.raises(UserError, match=f"here: timm has no model '{wrong}'") as error:
            check_model(wrong, "here")
        assert near is None or f"did you mean '{near}" in str(error.value)


def test_names_are_read_without_torch() -> None:
    check = (
        "from workflow.checks import check_model; check_model('mlp', ''); import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
