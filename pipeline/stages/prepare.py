"""prepare: a source -> images, labels and ids of one split."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import registry, store
from pipeline.contracts import UserError
from pipeline.datasets import splits
from pipeline.datasets.samples import Samples

CHUNK = 64  # images at a time for mean and standard deviation, in float64
SMALLEST_STD = 1e-3
MEMORY_LIMIT = 4 * 2**30  # bytes of decoded training images above which they stay in their files
MOMENT_IMAGES = 5000  # training images that mean and standard deviation are taken from if they do


def prepare(*, spec: Mapping[str, Any], code: str, out: Path) -> None:
    """Write one split of a data set.

    Args:
        spec: `dataset`, `source` (name), `options` (of the source), `frequency` (None, `flip`, {`low_pass`: b} or
            {`high_pass`: b}), `split` (`train` or `evaluation`), `seed`, `test_share`; for `train` also `validation`
            (a share), `train_size` and `loading` (`memory`, `files`, or `auto`: files if the decoded training images
            take more than 4 GiB); for `evaluation` also `evaluation` (number of images or None for all).
        code: digest of the code, for the provenance.
        out: safetensors file. `train` holds train_* and validation_* (images (n, c, h, w), uint8 pixels or float32
            data, labels, ids), but no train_images if these stay in their files; `evaluation` holds images, labels, ids
            and sha256 of each image, and directions (k, c, h, w) where the source knows those that tell its classes
            apart. All are those of the source: the frequency map is applied where they are read (`stages.space`).
            Metadata: classes; `shape` of an image; `box`, the smallest and largest value of the source's valid data,
            None where there is no bound; `frequency`, the map; for `train` also mean, of the source's data, and std,
            of the mapped data around the map of that mean.

    Raises:
        UserError: the source or its options are wrong, a split is empty, or the frequency map does not fit the images.
    """
    where = f"datasets.{spec['dataset']}"
    samples = registry.load("source", spec["source"])(**spec["options"])
    train, test = splits.divide(samples, spec["seed"], spec["test_share"])
    meta = store.provenance("prepare", spec, code, {}) | {"classes": list(samples.classes), "box": list(samples.box)}
    if spec["split"] == "evaluation":
        rows = test[: spec["evaluation"]]
        images = samples.read(rows)
        tensors = {
            "images": images,
            "labels": samples.labels[rows],
            "ids": store.pack([samples.ids[row] for row in rows]),
            "sha256": splits.image_hashes(images),
        }
        if samples.directions is not None:
            tensors["directions"] = samples.directions
    else:
        parts = splits.split_validation(train, spec["validation"], spec["train_size"])
        tensors = {}
        for name, rows in zip(("train", "validation"), parts, strict=True):
            if not len(rows):
                raise UserError(f"{where}: the {name} split is empty; change validation or train_size")
            tensors[f"{name}_labels"] = samples.labels[rows]
            tensors[f"{name}_ids"] = store.pack([samples.ids[row] for row in rows])
        rows, held = parts
        tensors["validation_images"] = samples.read(held)
        if _stays_in_files(samples, spec["loading"], len(rows) * tensors["validation_images"][0].nbytes, where):
            images = samples.read(rows[:MOMENT_IMAGES])  # the order is stratified: the first rows stand for all
        else:
            images = tensors["train_images"] = samples.read(rows)
    meta["shape"] = list(images.shape[1:])
    meta["frequency"] = _frequency(spec["frequency"], images.shape, where)
    if spec["split"] == "train":
        meta["mean"], meta["std"] = _moments(images, meta["frequency"])
    for name, array in tensors.items():
        if name.endswith("images"):
            print(f"{where}: {name} {array.shape} {np.dtype(array.dtype)}", file=sys.stderr)
    store.write_tensors(out, tensors, meta)


def _stays_in_files(samples: Samples, loading: str, size: int, where: str) -> bool:
    """Whether training decodes images when it needs them, rather than holding `size` bytes of decoded ones."""
    if loading == "files" and samples.encoded is None:
        raise UserError(f"{where}.loading: given files, but this source has no image files; use auto or memory")
    if loading == "memory" or samples.encoded is None or (loading == "auto" and size <= MEMORY_LIMIT):
        return False
    print(f"{where}: train images stay in their files ({size / 2**30:.1f} GiB decoded)", file=sys.stderr)
    return True


def _frequency(given: Any, shape: tuple[int, ...], where: str) -> dict[str, Any] | None:
    """The map as the metadata name it: `map`, and `bandwidth` of a low-pass or high-pass."""
    if given is None:
        return None
    if given == "flip":
        return {"map": "flip"}
    if len(given) != 1:
        raise UserError(f"{where}.frequency: given {given}, expected one of flip, {{low_pass: b}} or {{high_pass: b}}")
    ((name, bandwidth),) = given.items()
    height, width = shape[-2:]
    largest = max(height, width) - (name == "high_pass")  # a high-pass must leave something
    if bandwidth > largest:
        raise UserError(
            f"{where}.frequency: given {name}: {bandwidth} for images of {height} x {width}, expected at most {largest}"
        )
    return {"map": name, "bandwidth": bandwidth}


def _moments(images: NDArray[Any], frequency: Mapping[str, Any] | None) -> tuple[list[float], list[float]]:
    """Mean of each channel, and root mean square of the map of what is left; uint8 pixels count as [0, 1]."""
    scale = 255 if images.dtype == np.uint8 else 1
    chunks = range(0, len(images), CHUNK)
    entries = images.size / images.shape[1]
    mean = sum(images[row : row + CHUNK].sum(axis=(0, 2, 3), dtype=np.float64) for row in chunks) / entries / scale
    squares = np.zeros(images.shape[1])
    for row in chunks:
        rest = images[row : row + CHUNK] / np.float64(scale) - mean[:, None, None]
        squares += (_mapped(rest, frequency) ** 2).sum(axis=(0, 2, 3))
    return mean.tolist(), np.maximum(np.sqrt(squares / entries), SMALLEST_STD).tolist()


def _mapped(images: NDArray[np.float64], frequency: Mapping[str, Any] | None) -> NDArray[np.float64]:
    if frequency is None or frequency["map"] == "flip":  # an isometry, which the sum of squares cannot tell
        return images
    import torch  # a second, so only where it is needed

    from pipeline.numerics.frequency import mapping

    return mapping(frequency)(torch.from_numpy(images)).numpy()
