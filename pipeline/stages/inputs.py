"""What the analyses read: the evaluation images with the seeds of their random draws, and the classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.contracts import UserError, derive_seed
from pipeline.models.classifier import Classifier, build, uses_timm
from pipeline.models.imports import import_timm
from pipeline.numerics.pixels import as_floats
from pipeline.stages.space import Space, space

CHUNK = 512  # images that are mapped at a time
FEWER = "lower the data set's `evaluation`, use a GPU with more memory, or `device: cpu`"  # where they do not fit


class Evaluation(NamedTuple):
    """Evaluation images (n, c, h, w), labels (n,), ids, and the space of the data set.

    `directions` (k, c, h, w) float32 are those that tell the classes apart, None where the source knows none: they are
    orthonormal before the frequency map, and what becomes of them behind it.
    """

    images: Tensor
    labels: Tensor
    ids: list[str]
    space: Space
    directions: Tensor | None = None

    def seeds(self, seed: int, *names: str | int) -> Tensor:
        """(n,) int64: one seed a sample from (base seed, names, sample id)."""
        return torch.tensor([derive_seed(seed, *names, name) for name in self.ids], dtype=torch.int64)


@dataclass(frozen=True)
class Stored:
    """An `evaluation` split as it is in its file; images are mapped into the space of the data set when asked for."""

    evaluation: Evaluation

    def __len__(self) -> int:
        return len(self.evaluation.ids)

    def part(self, rows: slice, device: torch.device) -> Evaluation:
        """Some of the samples, images as float32 in the space of the data set."""
        whole = self.evaluation
        images, labels = whole.images[rows].to(device), whole.labels[rows].to(device)
        directions = None if whole.directions is None else mapped(whole.directions.to(device), whole.space)
        return Evaluation(mapped(images, whole.space), labels, whole.ids[rows], whole.space, directions)


def read_stored(path: Path) -> Stored:
    """Read the `evaluation` split that prepare wrote, to take the samples of a shard."""
    return Stored(_read(path, torch.device("cpu")))


def read_evaluation(path: Path, device: torch.device) -> Evaluation:
    """Read the `evaluation` split that prepare wrote, images as float32 in the space of the data set."""
    stored = read_stored(path)
    return stored.part(slice(0, len(stored)), device)


def read_pixels(path: Path, device: torch.device) -> Evaluation:
    """As `read_evaluation`, but with the images as they are before any frequency map: pixels in [0, 1].

    Raises:
        UserError: the data are no pixels.
    """
    evaluation = _read(path, device)
    if evaluation.images.dtype != torch.uint8:
        raise UserError(f"{path}: holds floats, and corruptions act on pixels; leave corruptions out for this data set")
    return evaluation._replace(images=as_floats(evaluation.images))


def mapped(images: Tensor, into: Space) -> Tensor:
    """Images of a file, uint8 pixels or floats, in a data set's space; mapped a few at a time."""
    return torch.cat([into.map(as_floats(part)) for part in torch.split(images, CHUNK)])


def _read(path: Path, device: torch.device) -> Evaluation:
    """The split with the images as they are in the file."""
    tensors, meta = store.read_tensors(path, "prepare evaluation")
    images, labels = (torch.from_numpy(tensors[name]).to(device) for name in ("images", "labels"))
    directions = torch.from_numpy(tensors["directions"]).to(device) if "directions" in tensors else None
    return Evaluation(images, labels, store.unpack(tensors["ids"]), space(meta, images.shape), directions)


def same_samples(path: Path, ids: list[str], expected: list[str]) -> None:
    """Raise UserError unless a file holds the evaluation samples, in order."""
    if ids != expected:
        raise UserError(
            f"{path}: made from other evaluation samples ({len(ids)} against {len(expected)}); make it anew"
        )


def passes(model: nn.Module, images: Tensor) -> Callable[[int], None]:
    """A forward and a backward pass of the first images, so many; what these need of memory goes for the analyses."""

    def work(count: int) -> None:
        rows = images[:count].clone().requires_grad_()
        torch.autograd.grad(model(rows).sum(), rows)

    return work


def load_classifier(path: Path, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """The classifier in a file that `train` wrote, in eval mode, and the file's metadata."""
    tensors, meta = store.read_tensors(path, "train")
    if uses_timm(meta["recipe"]["model"]):
        import_timm()
    classifier = build(meta["recipe"])
    # load_state_dict copies; a read-only array would only draw a warning from torch
    classifier.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    return classifier.to(device).eval(), meta
