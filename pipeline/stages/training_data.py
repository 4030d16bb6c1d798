"""What a training reads: small data sets as pixels in memory, large ones as an index into their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import registry, store
from pipeline.contracts import UserError
from pipeline.datasets.decoding import open_image
from pipeline.training.feeds import Files, Split


def read_training(
    path: Path, tensors: Mapping[str, Any], meta: Mapping[str, Any], device: torch.device
) -> tuple[Split | Files, Split]:
    """Training and validation data of a `train` split that prepare wrote.

    Args:
        path: of the file, for messages.
        tensors: its arrays; without `train_images` the images stay in the files of the source.
        meta: its metadata.
        device: to which images that are held in memory go.

    Raises:
        UserError: the source no longer gives the samples that the index names.
    """
    validation = Split(*(torch.from_numpy(tensors[f"validation_{part}"]).to(device) for part in ("images", "labels")))
    labels = torch.from_numpy(tensors["train_labels"])
    if "train_images" in tensors:
        return Split(torch.from_numpy(tensors["train_images"]).to(device), labels.to(device)), validation
    samples = registry.load("source", meta["spec"]["source"])(**meta["spec"]["options"])
    wanted, rows = store.unpack(tensors["train_ids"]), {name: row for row, name in enumerate(samples.ids)}
    if missing := [name for name in wanted if name not in rows]:
        raise UserError(f"{path}: {len(missing)} images are no longer in their files ({missing[0]}, ...); delete it")
    places = np.array([rows[name] for name in wanted])
    samples.encoded(int(places[0]))  # what the source holds in memory is then there before workers are forked
    channels, size = tensors["validation_images"].shape[1], tensors["validation_images"].shape[-1]

    def opened(row: int) -> Any:
        name, content = samples.encoded(int(places[row]))
        return open_image(name, content, channels)

    return Files(labels, lambda row: samples.read(places[row : row + 1])[0], opened, size), validation
