"""A classifier maps images to logits, pixels in [0, 1] or data derived from them: the normalisation lives inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError
from pipeline.models.factory import load_factory
from pipeline.models.nets import NETS
from pipeline.models.stems import small_stem
from pipeline.numerics.frequency import mapping


class Classifier(nn.Module):
    """A network behind its normalisation: logits = net((x - mean) / std).

    Args:
        net: maps normalised images (n, c, h, w) to logits (n, classes).
        mean: per channel, or an image (c, h, w), in units of the data.
        std: per channel, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float] | Tensor, std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        centre = torch.as_tensor(mean, dtype=torch.float32)
        self.register_buffer("mean", centre[None] if centre.ndim == 3 else centre.view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


def uses_timm(model: str) -> bool:
    """Whether a model's name is one of timm's: no factory, and none of `models.nets`."""
    return ":" not in model and model not in NETS


def build(recipe: Mapping[str, Any]) -> Classifier:
    """Build an untrained classifier.

    Args:
        recipe: `model` (a timm name, one of `models.nets`, or `module:function` of an importable factory),
            `model_options` (its keywords), `stem` (`default` or `small`), `classes` (their number), `channels`, `mean`,
            `std`, for derived data `frequency` (as of `numerics.frequency.mapping`), and for derived data and the nets
            of `models.nets` `size` (height and width). A timm model gets `num_classes` and `in_chans`, one of
            `models.nets` also `size`; a factory gets its options alone. `mean` is that of the pixels: the classifier
            takes away the map of the image that is constant at it, so that on flipped data it does what it would do on
            the pixels behind the flip (as "Hold me tight!" has it: FLIP(1) times the mean).

    Raises:
        UserError: the model refuses its options, or has no small stem.
    """
    name, options = recipe["model"], dict(recipe["model_options"])
    classes, channels = recipe["classes"], recipe["channels"]
    try:
        if ":" in name:
            net = load_factory(name)(**options)
        elif name in NETS:
            net = NETS[name](num_classes=classes, in_chans=channels, size=recipe["size"], **options)
        else:
            import timm  # 2 s, so only where a model is built; `models.imports` knows a shorter way

            net = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name} cannot be built with the options {options}: {reason}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"{name} gives a {type(net).__name__}, expected a torch.nn.Module")
    if recipe["stem"] == "small":
        small_stem(net, name)
    return Classifier(net, _centre(recipe), recipe["std"])


def _centre(recipe: Mapping[str, Any]) -> Sequence[float] | Tensor:
    """What the normalisation takes away: the mean of each channel, or its map for derived data, (c, h, w)."""
    mean: Sequence[float] = recipe["mean"]
    if not recipe.get("frequency"):
        return mean
    constant = torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1).expand(-1, *recipe["size"])
    return mapping(recipe["frequency"])(constant)
