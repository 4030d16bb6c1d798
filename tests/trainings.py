"""The adversarial trainings by name, called on a small network in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.adversarial import adversarial
from pipeline.training.curvature import curvature
from pipeline.training.fast import fast
from pipeline.training.free import free
from pipeline.training.mart import mart
from pipeline.training.trades import trades

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(6) % 3
TRAININGS: dict[str, Callable[..., tuple[Tensor, dict[str, Tensor]]]] = {
    "adversarial": adversarial,
    "trades": trades,
    "mart": mart,
    "fast": fast,
    "free": free,
    "curvature": curvature,
}
BALL = [name for name in TRAININGS if name != "curvature"]  # those that take an epsilon


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)
    ).double()


def call(name: str, classifier: nn.Module, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    given = {
        "classifier": classifier,
        "images": IMAGES,
        "labels": LABELS,
        "generator": torch.Generator().manual_seed(5),
        **({"epsilon": 0.1} if name in BALL else {}),
        **({"state": {}} if name in ("fast", "free") else {}),
        **({"progress": 1.0} if name == "curvature" else {}),
        **options,
    }
    return TRAININGS[name](**given)


def seen_in_train_mode(classifier: nn.Module) -> list[Tensor]:
    """Images of the passes that BatchNorm learns from."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if module[1].training:
            seen.append(given[0].detach().clone())

    classifier.register_forward_pre_hook(keep)
    return seen


def affine() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
