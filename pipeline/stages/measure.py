"""measure: a classifier on clean, corrupted or attacked images -> a table in long form."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline import devices, registry, store
from pipeline.contracts import UserError, View
from pipeline.models.integrity import frozen
from pipeline.stages.inputs import Evaluation, load_classifier, mapped, read_evaluation, same_samples
from pipeline.suites import suite_of

KEYS_OF_CLASSIFIER = ("dataset", "classifier", "architecture", "training", "seed")


def measure(
    *,
    spec: Mapping[str, Any],
    code: str,
    classifier: Path,
    data: Path,
    out: Path,
    views: Sequence[Path] = (),
    device: str = "auto",
    batch_size: int = 256,
) -> None:
    """Measure a classifier and write one row per sample (and view, subspace, ...).

    Args:
        spec: `measurement` (id), `method`, `options`, `seed`, `clean` (whether the clean images are one of the views),
            `augmentations` (id -> method and options), for a method that asks for them.
        code: digest of the code, for the provenance.
        classifier: a file that train wrote.
        data: the `evaluation` split that prepare wrote.
        out: Parquet file.
        views: files of corrupt or attack: the further views. The attacks are on this classifier, for a method that
            declares `SOURCES = "all"` on any classifier of the data set.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time; it does not change the result.
    """
    method = registry.load("measurement", spec["method"])
    module = sys.modules[method.__module__]
    chosen = devices.choose(device)
    evaluation = read_evaluation(data, chosen)
    model, origin = load_classifier(classifier, chosen)
    any_source = getattr(module, "SOURCES", "own") == "all"
    files = [_file(path, origin["spec"], any_source) for path in views]
    seen = _Views(evaluation, files, spec["clean"])
    print(f"{len(evaluation.ids)} images, {len(seen)} views", file=sys.stderr)
    context = {
        "model": model,
        "images": evaluation.images,
        "labels": evaluation.labels,
        "seeds": evaluation.seeds(spec["seed"], "measure", spec["measurement"]),
        "views": seen,
        "batch_size": batch_size,
        "box": evaluation.space.box,
        "ids": evaluation.ids,
        "directions": evaluation.directions,
        "augmentations": {name: _augmentation(given) for name, given in spec["augmentations"].items()},
    }
    with frozen(model):
        columns = dict(method(**registry.passed("measurement", spec["method"], context), **spec["options"]))
    rows = np.asarray(columns.pop("row"))
    keys: dict[str, Any] = {name: [origin["spec"][name]] * len(rows) for name in KEYS_OF_CLASSIFIER}
    keys |= {"measurement": [spec["measurement"]] * len(rows), "sample": [evaluation.ids[row] for row in rows]}
    own = module.COLUMNS
    inputs = {"classifier": classifier, "data": data} | {file.name: file.path for file in files}
    meta = store.provenance("measure", spec, code, inputs, devices.describe(chosen))
    store.write_table(out, keys | {name: columns[name] for name in own}, store.table_schema(own), meta)


def _augmentation(given: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """An augmentation with its options: images and a generator to images."""
    options = dict(given)
    return functools.partial(registry.load("augmentation", options.pop("method")), **options)


class _File(NamedTuple):
    """A file of further views: its path, its name in the provenance, and its metadata."""

    path: Path
    name: str
    meta: Mapping[str, Any]


def _file(path: Path, classifier: Mapping[str, Any], any_source: bool) -> _File:
    """A file of views, refused if the classifier that it was made on is not to be looked at."""
    meta = store.read_metadata(path)
    made_on = meta["classifier"] if meta["stage"] == "attack" else {}
    for field in made_on:
        if made_on[field] != classifier[field] and not (any_source and field == "classifier"):
            raise UserError(f"{path}: made on {made_on[field]}, not on {classifier[field]}")
    return _File(path, f"views/{path.parent.name}/{path.stem}", meta)


class _Views(Sequence[View]):
    """The views, read when they are looked at, one file at a time: all of them together may not fit into memory."""

    def __init__(self, evaluation: Evaluation, files: Sequence[_File], clean: bool) -> None:
        self._evaluation = evaluation
        self._places: list[tuple[_File | None, int, int | None]] = [(None, 0, None)] if clean else []
        for file in files:  # an attack has one view and no severity
            self._places += [(file, *place) for place in enumerate(file.meta.get("severities", [None]))]
        self._open: Path | None = None
        self._images = evaluation.images[:0]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        file, place, severity = self._places[index]
        evaluation = self._evaluation
        if file is None:
            return View("clean", "clean", None, evaluation.images, {})
        if file.path != self._open:
            tensors, _ = store.read_tensors(file.path, "corrupt", "attack")
            same_samples(file.path, store.unpack(tensors["ids"]), evaluation.ids)
            self._open, self._images = file.path, torch.from_numpy(tensors["images"]).to(evaluation.images.device)
        spec = file.meta["spec"]
        if severity is not None:
            images = mapped(self._images[place], evaluation.space)
            details = {"suite": suite_of(spec["corruption"]), "family": file.meta.get("family")}
            return View(spec["corruption"], "corruption", severity, images, details)
        details = {**file.meta, "classifier": file.meta["classifier"]["classifier"]}
        return View(spec["attack"], "attack", None, self._images, details)
