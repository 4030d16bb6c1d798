"""measure: a classifier on clean, corrupted or attacked images -> a table in long form."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import devices, registry, store
from pipeline.contracts import UserError, View
from pipeline.models.integrity import frozen
from pipeline.stages.inputs import Evaluation, load_classifier, mapped, read_evaluation, same_samples

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
        spec: `measurement` (id), `method`, `options`, `seed`, `clean` (whether the clean images are one of the views).
        code: digest of the code, for the provenance.
        classifier: a file that train wrote.
        data: the `evaluation` split that prepare wrote.
        out: Parquet file.
        views: files of corrupt or attack: the further views.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time; it does not change the result.
    """
    method = registry.load("measurement", spec["method"])
    chosen = devices.choose(device)
    evaluation = read_evaluation(data, chosen)
    model, origin = load_classifier(classifier, chosen)
    seen = [View("clean", "clean", None, evaluation.images, {})] if spec["clean"] else []
    for path in views:
        seen += _views(path, evaluation, origin["spec"])
    print(f"{len(evaluation.ids)} images, {len(seen)} views", file=sys.stderr)
    context = {
        "model": model,
        "images": evaluation.images,
        "labels": evaluation.labels,
        "seeds": evaluation.seeds(spec["seed"], "measure", spec["measurement"]),
        "views": seen,
        "batch_size": batch_size,
        "box": evaluation.space.box,
    }
    with frozen(model):
        columns = dict(method(**registry.passed("measurement", spec["method"], context), **spec["options"]))
    rows = np.asarray(columns.pop("row"))
    keys: dict[str, Any] = {name: [origin["spec"][name]] * len(rows) for name in KEYS_OF_CLASSIFIER}
    keys |= {"measurement": [spec["measurement"]] * len(rows), "sample": [evaluation.ids[row] for row in rows]}
    own = sys.modules[method.__module__].COLUMNS
    inputs = {"classifier": classifier, "data": data} | {f"views/{path.stem}": path for path in views}
    meta = store.provenance("measure", spec, code, inputs, devices.describe(chosen))
    store.write_table(out, keys | {name: columns[name] for name in own}, store.table_schema(own), meta)


def _views(path: Path, evaluation: Evaluation, classifier: Mapping[str, Any]) -> Iterator[View]:
    tensors, meta = store.read_tensors(path, "corrupt", "attack")
    same_samples(path, store.unpack(tensors["ids"]), evaluation.ids)
    images = torch.from_numpy(tensors["images"]).to(evaluation.images.device)
    if meta["stage"] == "corrupt":
        for severity, level in zip(meta["severities"], images, strict=True):
            yield View(meta["spec"]["corruption"], "corruption", severity, mapped(level, evaluation.space), {})
    else:
        made_on = meta["classifier"]
        if any(made_on[name] != classifier[name] for name in made_on):
            raise UserError(f"{path}: made on {made_on['classifier']}, not on {classifier['classifier']}")
        yield View(meta["spec"]["attack"], "attack", None, images, meta)
