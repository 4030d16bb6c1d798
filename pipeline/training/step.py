"""One training step as a module: augmentation, the map into the data's space, and the training's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn


class Method(NamedTuple):
    """A training, ready to be called with images, labels, classifier, generator and progress.

    Attributes:
        loss: the plug-in with its options, `state` and `box` bound.
        takes_box: whether it asks for the box: then it gets images of the data's own space, else pixel images and a
            classifier that maps them.
        takes_progress: whether it asks for the share of the training that is done.
        replays: how many times in a row the loop gives it each batch.
        state: its tensors that live through the training and its checkpoints.
    """

    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    takes_box: bool
    takes_progress: bool
    replays: int
    state: dict[str, Tensor]


class Step(nn.Module):
    """Loss and metrics of a batch of pixel images.

    A module, so that DistributedDataParallel can wrap it: the step is then one forward pass of the wrapper, however
    often the training calls the classifier inside.

    Args:
        classifier: maps images of the data's space to logits.
        method: the training.
        space: pixel images -> the data's space.
        augmentation: of pixel images, in train mode alone; called with `images` and `generator`.
        precision: of the network's arithmetic; float32 means no autocast.
        channels_last: memory format of network and images.
        compiled: whether torch.compile compiles the network.
    """

    def __init__(
        self,
        classifier: nn.Module,
        method: Method,
        *,
        space: Callable[[Tensor], Tensor] = lambda images: images,
        augmentation: Callable[..., Tensor] | None = None,
        precision: torch.dtype = torch.float32,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        layout: Any = torch.channels_last if channels_last else torch.preserve_format
        self.classifier, self.method = classifier.to(memory_format=layout), method
        self._settings: dict[str, Any] = {
            "space": space,
            "augmentation": augmentation,
            "precision": precision,
            "channels_last": channels_last,
            "compiled": compiled,
        }
        self._space, self._augmentation = space, augmentation
        self._precision, self._layout = precision, layout
        self._network = cast(nn.Module, torch.compile(classifier)) if compiled else classifier
        self._target = self._network if method.takes_box else _Behind(space, self._network)

    def around(self, classifier: nn.Module) -> Step:
        """The same step around another classifier."""
        return Step(classifier, self.method, **self._settings)

    def forward(
        self, images: Tensor, labels: Tensor, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics, means over the batch; images (n, c, h, w) as the feed gives them."""
        given: dict[str, Any] = {"progress": progress} if self.method.takes_progress else {}
        if self.training and self._augmentation is not None:
            images = self._augmentation(images=images, generator=generator)
        if self.method.takes_box:
            images = self._space(images)
        images = images.contiguous(memory_format=self._layout)
        with self._autocast(images):
            loss, metrics = self.method.loss(
                classifier=self._target, images=images, labels=labels, generator=generator, **given
            )
        return loss.float(), {name: value.detach().float() for name, value in metrics.items()}

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits of pixel images, float32."""
        with self._autocast(images):
            found: Tensor = self._network(self._space(images).contiguous(memory_format=self._layout))
        return found.float()

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self._precision is torch.bfloat16)


def make_step(
    *,
    classifier: nn.Module,
    method: Method,
    space: Callable[[Tensor], Tensor],
    augment: Callable[..., Tensor] | None,
    augmentation: Mapping[str, Any] | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    channels_last: bool = False,
    compile: bool = False,  # noqa: A002 (the option's name)
) -> Step:
    """A step from the options of a recipe.

    Args:
        classifier: of `Step`.
        method: of `Step`.
        space: of `Step`.
        augment: the augmentation that `augmentation` names, with its options bound.
        augmentation: `{method: name, options}`, applied to the images before the training sees them.
        precision: of the network's arithmetic; `bfloat16` by autocast.
        channels_last: memory format of network and images.
        compile: whether torch.compile compiles the network.
    """
    if (augment is None) != (augmentation is None):
        raise ValueError("augment and augmentation come together")
    return Step(
        classifier,
        method,
        space=space,
        augmentation=augment,
        precision=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        channels_last=channels_last,
        compiled=compile,
    )


class _Behind(nn.Module):
    """A classifier of pixel images: the map first."""

    def __init__(self, space: Callable[[Tensor], Tensor], classifier: nn.Module) -> None:
        super().__init__()
        self._space, self.classifier = space, classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self._space(images))
        return logits
