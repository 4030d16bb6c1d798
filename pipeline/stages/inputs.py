"""What the analyses read: the evaluation images with the seeds of their random draws, and the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline import store
from pipeline.contracts import UserError, derive_seed
from pipeline.models.classifier import Classifier, build


class Evaluation(NamedTuple):
    """Evaluation images (n, c, h, w) float32 in [0, 1], labels (n,) and ids."""

    images: Tensor
    labels: Tensor
    ids: list[str]

    def seeds(self, seed: int, *names: str | int) -> Tensor:
        """(n,) int64: one seed a sample from (base seed, names, sample id)."""
        return torch.tensor([derive_seed(seed, *names, name) for name in self.ids], dtype=torch.int64)


def read_evaluation(path: Path, device: torch.device) -> Evaluation:
    """Read the `evaluation` split that prepare wrote."""
    tensors, _ = store.read_tensors(path, "prepare evaluation")
    images = torch.from_numpy(tensors["images"]).to(device).float() / 255
    return Evaluation(images, torch.from_numpy(tensors["labels"]).to(device), store.unpack(tensors["ids"]))


def same_samples(path: Path, ids: list[str], expected: list[str]) -> None:
    """Raise UserError unless a file holds the evaluation samples, in order."""
    if ids != expected:
        raise UserError(
            f"{path}: made from other evaluation samples ({len(ids)} against {len(expected)}); make it anew"
        )


def load_classifier(path: Path, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """The classifier in a file that `train` wrote, in eval mode, and the file's metadata."""
    tensors, meta = store.read_tensors(path, "train")
    classifier = build(meta["recipe"])
    # load_state_dict copies; a read-only array would only draw a warning from torch
    classifier.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    return classifier.to(device).eval(), meta
