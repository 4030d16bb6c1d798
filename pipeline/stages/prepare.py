"""prepare: a source -> uint8 images, labels and ids of one split."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import registry, store
from pipeline.contracts import UserError
from pipeline.datasets import splits


def prepare(*, spec: Mapping[str, Any], code: str, out: Path) -> None:
    """Write one split of a data set.

    Args:
        spec: `dataset`, `source` (name), `options` (of the source), `split` (`train` or `evaluation`), `seed`,
            `test_share`; for `train` also `validation` (a share) and `train_size`; for `evaluation` also `evaluation`
            (number of images or None for all).
        code: digest of the code, for the provenance.
        out: safetensors file. `train` holds train_* and validation_* (images uint8 (n, c, h, w), labels, ids) and in
            its metadata classes, mean and std; `evaluation` holds images, labels, ids and sha256 of each image.

    Raises:
        UserError: the source or its options are wrong, or a split is empty.
    """
    where = f"datasets.{spec['dataset']}"
    samples = registry.load("source", spec["source"])(**spec["options"])
    train, test = splits.divide(samples, spec["seed"], spec["test_share"])
    meta = store.provenance("prepare", spec, code, {}) | {"classes": list(samples.classes)}
    if spec["split"] == "evaluation":
        rows = test[: spec["evaluation"]]
        images = samples.read(rows)
        tensors = {
            "images": images,
            "labels": samples.labels[rows],
            "ids": store.pack([samples.ids[row] for row in rows]),
            "sha256": splits.image_hashes(images),
        }
    else:
        parts = splits.split_validation(train, spec["validation"], spec["train_size"])
        tensors = {}
        for name, rows in zip(("train", "validation"), parts, strict=True):
            if not len(rows):
                raise UserError(f"{where}: the {name} split is empty; change validation or train_size")
            tensors[f"{name}_images"] = samples.read(rows)
            tensors[f"{name}_labels"] = samples.labels[rows]
            tensors[f"{name}_ids"] = store.pack([samples.ids[row] for row in rows])
        pixels = tensors["train_images"]
        meta["mean"] = [float(pixels[:, c].mean() / 255) for c in range(pixels.shape[1])]
        meta["std"] = [max(float(pixels[:, c].std() / 255), 1e-3) for c in range(pixels.shape[1])]
    for name, array in tensors.items():
        if name.endswith("images"):
            print(f"{where}: {name} {array.shape} {np.dtype(array.dtype)}", file=sys.stderr)
    store.write_tensors(out, tensors, meta)
