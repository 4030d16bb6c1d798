"""The validation split: watched after every epoch, and what the best epoch is chosen by."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipeline.numerics.pixels import as_floats
from pipeline.training.feeds import Part, Split, seeded
from pipeline.training.progress import Means
from pipeline.training.step import Step


def validate(step: Step, split: Split, batch_size: int, seed: int, part: Part) -> dict[str, float]:
    """The step's loss and metrics on a split in eval mode, and the clean accuracy as `validation_accuracy`.

    Draws (random starts) are the same in every epoch.

    Args:
        step: around the classifier to validate.
        split: images and labels, the same in every process.
        batch_size: images at a time, over all processes.
        seed: of the training's draws.
        part: the rows of each batch that this process looks at.
    """
    step.eval()
    totals = Means()
    for number, rows in enumerate(torch.split(torch.arange(len(split.labels)), batch_size)):
        own = rows[part.rank :: part.world].to(split.labels.device)
        if not len(own):
            continue
        pixels, labels = as_floats(split.images[own]), split.labels[own]
        loss, metrics = step(pixels, labels, seeded(seed, "validation", number, part.rank))
        accuracy = (step.logits(pixels).argmax(1) == labels).float().mean()
        totals.add(len(own), **{**metrics, "loss": loss.detach(), "accuracy": accuracy})
    return totals.named("validation", part)


def score(row: Mapping[str, float]) -> float:
    """By what epochs are compared: robust accuracy where the training reports it, else accuracy."""
    return row.get("validation_robust_accuracy", row["validation_accuracy"])
