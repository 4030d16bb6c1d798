"""A classifier maps [0, 1] images to logits: the normalisation lives inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError
from pipeline.models.factory import load_factory
from pipeline.models.stems import small_stem


class Classifier(nn.Module):
    """A network behind its normalisation: logits = net((x - mean) / std).

    Args:
        net: maps normalised images (n, c, h, w) to logits (n, classes).
        mean: per channel, in units of [0, 1] images.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


def build(recipe: Mapping[str, Any]) -> Classifier:
    """Build an untrained classifier.

    Args:
        recipe: `model` (a timm name, or `module:function` of an importable factory), `model_options` (its keywords),
            `stem` (`default` or `small`), `classes` (their number), `channels`, `mean`, `std`. A timm model gets
            `num_classes` and `in_chans`; a factory gets its options alone.

    Raises:
        UserError: the model refuses its options, or has no small stem.
    """
    name, options = recipe["model"], dict(recipe["model_options"])
    try:
        if ":" in name:
            net = load_factory(name)(**options)
        else:
            import timm  # 2 s, so only where a model is built

            net = timm.create_model(
                name, pretrained=False, num_classes=recipe["classes"], in_chans=recipe["channels"], **options
            )
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name} cannot be built with the options {options}: {reason}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{name} gives a {type(net).__name__}, expected a torch.nn.Module")
    if recipe["stem"] == "small":
        small_stem(net, name)
    return Classifier(net, recipe["mean"], recipe["std"])
