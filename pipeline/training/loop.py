"""The one training loop: data as uint8 on the device, sliced; timm's optimisers and schedulers."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, Natural, NonNegative, Positive, Share, UserError

# (images, labels) -> (loss, metrics): a training with its options bound.
Step = Callable[[Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


class Split(NamedTuple):
    """Images (n, c, h, w) uint8 and labels (n,) on the training device."""

    images: Tensor
    labels: Tensor


def fit(
    *,
    classifier: nn.Module,
    step: Step,
    train: Split,
    validation: Split,
    generator: torch.Generator,
    epochs: Count = 30,
    batch_size: Count = 128,
    optimizer: Literal["sgd", "adam", "adamw", "nadamw", "lamb", "lion", "rmsprop"] = "sgd",
    learning_rate: Positive = 0.1,
    momentum: Share = 0.9,
    weight_decay: NonNegative = 5e-4,
    scheduler: Literal["cosine", "poly", "none"] = "cosine",
    warmup_epochs: Natural = 0,
    gradient_clip: Positive | None = None,
    crop_padding: Natural = 0,
    flip: bool = False,
) -> list[dict[str, float]]:
    """Train in place; the last epoch's weights are kept, so nothing is chosen on any split.

    Args:
        classifier: maps [0, 1] images to logits.
        step: loss and metrics of a batch; called in train mode on training data, in eval mode on validation data.
        train: training images and labels.
        validation: validation images and labels; only watched.
        generator: CPU generator of the order and the base augmentation.
        epochs: passes over the training data.
        batch_size: images a step; the last, smaller batch is kept unless it holds one image (BatchNorm needs two).
        optimizer: a timm optimiser.
        learning_rate: its peak.
        momentum: of SGD (Nesterov's), or the first decay rate of the others.
        weight_decay: not applied to biases and normalisation layers (timm's default).
        scheduler: a timm scheduler stepped every batch, down to zero; `poly` is linear.
        warmup_epochs: linear rise from zero at the start.
        gradient_clip: largest l2 norm of the gradient.
        crop_padding: pixels of zero padding for random crops.
        flip: random horizontal flips.

    Returns:
        One row of metrics an epoch: `epoch`, `learning_rate`, and `train_*` and `validation_*` of loss, accuracy and
        whatever the training reports.

    Raises:
        UserError: the loss is not finite.
    """
    from timm.scheduler import create_scheduler_v2

    batches = [size for size in _batch_sizes(len(train.labels), batch_size) if size > 1]
    solver = make_optimizer(classifier, optimizer, learning_rate, momentum, weight_decay)
    schedule = None
    if scheduler != "none":
        schedule, _ = create_scheduler_v2(
            solver,
            sched=scheduler,
            num_epochs=epochs,
            warmup_epochs=warmup_epochs,
            warmup_lr=0.0,
            min_lr=0.0,
            decay_rate=1.0,  # the power of timm's `poly`
            step_on_epochs=False,
            updates_per_epoch=len(batches),
        )
    history: list[dict[str, float]] = []
    started, seen = time.monotonic(), 0
    for epoch in range(epochs):
        classifier.train()
        order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
        totals = _Means()
        for number, rows in enumerate(torch.split(order, batch_size)[: len(batches)]):
            if schedule is not None:
                schedule.step_update(epoch * len(batches) + number)
            images = augment(train.images[rows], generator, crop_padding, flip).float() / 255
            loss, metrics = step(images, train.labels[rows])
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"the loss is {loss.item()} in epoch {epoch + 1}, batch {number + 1}: lower learning_rate, add "
                    "warmup_epochs or set gradient_clip"
                )
            solver.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if gradient_clip is not None:
                nn.utils.clip_grad_norm_(classifier.parameters(), gradient_clip)
            solver.step()
            totals.add(len(rows), loss=loss.detach(), **metrics)
        seen += sum(batches)
        row = {"epoch": epoch + 1.0, "learning_rate": solver.param_groups[0]["lr"], **totals.named("train")}
        row |= validate(classifier, step, validation, batch_size)
        history.append(row)
        _show(row, epochs, seen / (time.monotonic() - started), (epochs - epoch - 1) * sum(batches))
    return history


def make_optimizer(
    classifier: nn.Module, name: str, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A timm optimiser. `momentum` is SGD's and RMSprop's, and the first of the `betas` of those that have betas."""
    from timm.optim import create_optimizer_v2, get_optimizer_info

    info = get_optimizer_info(name)
    given: dict[str, object] = {"momentum": momentum}
    if info.has_betas:  # timm would ignore the momentum
        given = {"betas": (momentum, inspect.signature(info.opt_class).parameters["betas"].default[1])}
    solver: torch.optim.Optimizer = create_optimizer_v2(
        classifier, opt=name, lr=learning_rate, weight_decay=weight_decay, **given
    )
    return solver


def validate(classifier: nn.Module, step: Step, split: Split, batch_size: int) -> dict[str, float]:
    """The step's loss and metrics on a split in eval mode, and the clean accuracy as `validation_accuracy`."""
    classifier.eval()
    totals = _Means()
    for images, labels in zip(
        torch.split(split.images, batch_size), torch.split(split.labels, batch_size), strict=True
    ):
        pixels = images.float() / 255
        loss, metrics = step(pixels, labels)
        with torch.no_grad():
            accuracy = (classifier(pixels).argmax(1) == labels).float().mean()
        totals.add(len(labels), **{**metrics, "loss": loss.detach(), "accuracy": accuracy})
    return totals.named("validation")


def augment(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    """Random crop after zero padding and random horizontal flip, each drawn per image; (n, c, h, w) of any type."""
    n, _, height, width = images.shape
    if padding:
        top, left = (torch.randint(2 * padding + 1, (n, 1), generator=generator) for _ in range(2))
        rows = (top + torch.arange(height)).to(images.device)
        columns = (left + torch.arange(width)).to(images.device)
        padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
        picked = padded[torch.arange(n, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = picked.permute(0, 3, 1, 2)
    if flip:
        chosen = (torch.rand(n, generator=generator) < 0.5).to(images.device)
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return images.contiguous()


def _batch_sizes(n: int, batch_size: int) -> list[int]:
    return [min(batch_size, n - start) for start in range(0, n, batch_size)]


class _Means:
    """Means over samples of what each batch reports as its own mean."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))

    def add(self, count: int, **metrics: Tensor) -> None:
        self.count += count
        for name, value in metrics.items():
            self.sums[name] = self.sums[name].to(value.device) + count * value

    def named(self, split: str) -> dict[str, float]:
        return {f"{split}_{name}": float(total) / self.count for name, total in self.sums.items()}


def _show(row: dict[str, float], epochs: int, speed: float, left: int) -> None:
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    text = f"epoch {row['epoch']:.0f}/{epochs}  {metrics}  {speed:.0f} images/s  {left / speed:.0f} s left"
    print(text, file=sys.stderr, flush=True)
