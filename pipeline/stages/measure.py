"""measure: a classifier on clean, corrupted or attacked images -> a table in long form."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline import devices, registry, store
from pipeline.contracts import UserError, View
from pipeline.models.integrity import frozen
from pipeline.stages import shards
from pipeline.stages.inputs import FEWER, Evaluation, load_classifier, mapped, passes, read_stored, same_samples
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
    batch_size: int | None = None,
) -> None:
    """Measure a classifier and write one row per sample (and view, subspace, ...).

    Args:
        spec: `measurement` (id), `method`, `options`, `seed`, `clean` (whether the clean images are one of the views),
            `augmentations` (id -> method and options), for a method that asks for them, and `shard` if only some of the
            samples are meant.
        code: digest of the code, for the provenance.
        classifier: a file that train wrote.
        data: the `evaluation` split that prepare wrote.
        out: Parquet file.
        views: files of corrupt or attack: the further views. The attacks are on this classifier, for a method that
            declares `SOURCES = "all"` on any classifier of the data set. The shards of an attack follow one another.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time, at most; None: as the memory allows (`devices`). It does not change the result.
    """
    method = registry.load("measurement", spec["method"])
    module = sys.modules[method.__module__]
    chosen = devices.choose(device)
    stored = read_stored(data)
    own = shards.rows(spec.get("shard"), _looked_at(spec, len(stored)))
    with devices.roomy(str(data), FEWER):
        evaluation = stored.part(own, chosen)
        model, origin = load_classifier(classifier, chosen)
    any_source = getattr(module, "SOURCES", "own") == "all"
    files = [_file(path, origin["spec"], any_source) for path in views]
    seen = _Views(evaluation, files, spec["clean"], own, stored.evaluation.ids)
    print(f"{len(evaluation.ids)} images, {len(seen)} views", file=sys.stderr)
    context = {
        "model": model,
        "images": evaluation.images,
        "labels": evaluation.labels,
        "seeds": evaluation.seeds(spec["seed"], "measure", spec["measurement"]),
        "views": seen,
        "box": evaluation.space.box,
        "ids": evaluation.ids,
        "directions": evaluation.directions,
        "augmentations": {name: _augmentation(given) for name, given in spec["augmentations"].items()},
    }

    def measured(batch_size: int) -> dict[str, Any]:
        given = registry.passed("measurement", spec["method"], {**context, "batch_size": batch_size})
        with frozen(model):
            return dict(method(**given, **spec["options"]))

    size = devices.batch_size(batch_size, chosen, len(evaluation.ids), passes(model, evaluation.images))
    columns = devices.fitting(f"measurements.{spec['measurement']}", measured, size)
    rows = np.asarray(columns.pop("row"))
    keys: dict[str, Any] = {name: [origin["spec"][name]] * len(rows) for name in KEYS_OF_CLASSIFIER}
    keys |= {"measurement": [spec["measurement"]] * len(rows), "sample": [evaluation.ids[row] for row in rows]}
    schema = module.COLUMNS
    inputs = {"classifier": classifier, "data": data} | {file.name: file.path for file in files}
    meta = store.provenance("measure", spec, code, inputs, devices.describe(chosen))
    store.write_table(out, keys | {name: columns[name] for name in schema}, store.table_schema(schema), meta)


def _augmentation(given: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
    """An augmentation with its options: images and a generator to images."""
    options = dict(given)
    return functools.partial(registry.load("augmentation", options.pop("method")), **options)


def _looked_at(spec: Mapping[str, Any], count: int) -> int:
    """How many samples all shards of a measurement look at: the first ones, if it says how many."""
    samples: int | None = spec["options"].get("samples") if "shard" in spec else None
    return count if samples is None else min(count, samples)


class _File(NamedTuple):
    """A file of further views, or of a shard of them: its path, its name in the provenance, and its metadata."""

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


class _Source(NamedTuple):
    """Views that are read together: the file that holds them, or all shards in order, and what they say of them."""

    files: Sequence[_File]
    meta: Mapping[str, Any]


def _sources(files: Sequence[_File]) -> Iterator[_Source]:
    """In the order given, the shards of an attack together."""

    def attack(file: _File) -> Any:
        spec = file.meta["spec"]
        return (file.meta["classifier"], {**spec, "shard": None}) if "shard" in spec else file.path

    for _, run in itertools.groupby(files, attack):
        group = list(run)
        if "shard" in group[0].meta["spec"]:
            shards.check_complete({file.path: file.meta for file in group})
        yield _Source(group, shards.joined([file.meta for file in group]))


class _Views(Sequence[View]):
    """The views, read when they are looked at, one file at a time: all of them together may not fit into memory."""

    def __init__(
        self,
        evaluation: Evaluation,
        files: Sequence[_File],
        clean: bool,
        own: slice | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self._evaluation = evaluation
        self._ids = list(evaluation.ids if ids is None else ids)  # of all samples, of which `own` are looked at
        self._own = own or slice(0, len(self._ids))
        self._places: list[tuple[_Source | None, int, int | None]] = [(None, 0, None)] if clean else []
        for source in _sources(files):  # an attack has one view and no severity
            self._places += [(source, *place) for place in enumerate(source.meta.get("severities", [None]))]
        self._open: _Source | None = None
        self._images = evaluation.images[:0]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        source, place, severity = self._places[index]
        evaluation = self._evaluation
        if source is None:
            return View("clean", "clean", None, evaluation.images, {})
        if source is not self._open:
            self._open, self._images = source, self._read(source).to(evaluation.images.device)
        meta, spec = source.meta, source.meta["spec"]
        if severity is not None:
            images = mapped(self._images[place], evaluation.space)
            details = {"suite": suite_of(spec["corruption"]), "family": meta.get("family")}
            return View(spec["corruption"], "corruption", severity, images, details)
        details = {**meta, "classifier": meta["classifier"]["classifier"]}
        return View(spec["attack"], "attack", None, self._images, details)

    def _read(self, source: _Source) -> torch.Tensor:
        """The images of the samples looked at; those of a corruption are (severity, n, c, h, w)."""
        found = []
        for file in source.files:
            rows = shards.rows(file.meta["spec"].get("shard"), len(self._ids))
            if rows.start < self._own.stop and self._own.start < rows.stop:
                tensors, _ = store.read_tensors(file.path, "corrupt", "attack")
                same_samples(file.path, store.unpack(tensors["ids"]), self._ids[rows])
                here = slice(max(self._own.start - rows.start, 0), self._own.stop - rows.start)
                images = torch.from_numpy(tensors["images"])
                found.append(images[:, here] if file.meta["stage"] == "corrupt" else images[here])
        return found[0] if len(found) == 1 else torch.cat(found)
