"""What the processes of tests/test_processes.py run; the first one prints JSON."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import torch
from torch import nn

from pipeline import registry
from pipeline.numerics.box import UNIT
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.distributed import gathered, joined
from pipeline.training.feeds import Part, Split
from pipeline.training.loop import Setting, fit
from pipeline.training.step import Method, Step


def data(n: int) -> Split:
    labels = torch.arange(n) % 4
    images = torch.randint(0, 150, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return Split((images + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


def method(name: str) -> Method:
    options = {key: option.default for key, option in registry.options("training", name).items()}
    options |= {key: value for key, value in {"epsilon": 0.1, "replays": 2}.items() if key in options}
    options |= {key: 0.01 for key in options if key == "weight_perturbation"}
    state: dict[str, torch.Tensor] = {}
    given = registry.passed("training", name, {"state": state, "box": UNIT})
    takes = registry.passed("training", name, dict.fromkeys(("box", "progress")))
    loss = functools.partial(registry.load("training", name), **options, **given)
    return Method(loss, "box" in takes, "progress" in takes, options.get("replays", 1), state)


def curve(part: Part, device: torch.device, folder: Path) -> list[list[float]]:
    """Losses of a training whose network sees no other image of the batch, with a checkpoint wherever one may be."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    setting = Setting(device, part, 0, Checkpoints(folder / "net.safetensors", "x"), 0.0)
    history = fit(
        step=Step(net, method("standard")), train=data(45), validation=data(30), seed=1, setting=setting,
        epochs=3, batch_size=16, flip=True, crop_padding=1, processes=part.world,
    )  # fmt: skip
    return [[row["train_loss"], row["validation_loss"], row["validation_accuracy"]] for row in history]


def all_trainings(part: Part, device: torch.device) -> dict[str, bool]:
    """Whether the processes have equal weights after a training of each kind, and the weights are finite."""
    same = {}
    for name in registry.names("training"):
        torch.manual_seed(0)
        convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        net = nn.Sequential(convolution, nn.Flatten(), nn.Linear(256, 4))
        fit(
            step=Step(net, method(name)), train=data(40), validation=data(8), seed=1, setting=Setting(device, part),
            epochs=1, batch_size=16, learning_rate=0.01, processes=part.world, ema=0.9,
        )  # fmt: skip
        weights = gathered(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]), part)
        same[name] = all(torch.equal(weights[0], other) and bool(other.isfinite().all()) for other in weights)
    return same


if __name__ == "__main__":
    with joined(torch.device("cpu")) as (own, cpu):
        found = {"curve": curve(own, cpu, Path(sys.argv[1])), "same": all_trainings(own, cpu) if own.world > 1 else {}}
        if own.rank == 0:
            print(json.dumps(found))
