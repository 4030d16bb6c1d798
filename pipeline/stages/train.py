"""train: data -> a classifier, trained here or brought from elsewhere."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import devices, registry, specs, store
from pipeline.contracts import Column, canonical, derive_seed, digest
from pipeline.models.classifier import build
from pipeline.models.weights import load_weights, read_weights
from pipeline.numerics.box import Box
from pipeline.stages.space import space
from pipeline.stages.training_data import read_training
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.distributed import joined
from pipeline.training.loop import Setting, fit
from pipeline.training.progress import listening
from pipeline.training.step import Method, make_step

SMALLER = "lower its `batch_size`, which is another recipe, or share batches among several GPUs by `processes`"
HISTORY = {
    "dataset": Column("string", "id of the data set in the config"),
    "classifier": Column("string", "id of the classifier"),
    "architecture": Column("string", "id of the architecture in the config"),
    "training": Column("string", "id of the training in the config"),
    "seed": Column("int64", "training seed"),
    "epoch": Column("int64", "epoch, from 1"),
    "split": Column("string", "train (means over the epoch) or validation (after it); null for learning_rate"),
    "metric": Column("string", "loss, accuracy, ... as the training reports them; learning_rate: of the last step"),
    "value": Column("float64", "mean over the split's images; losses in nats, accuracies as shares"),
}


def train(
    *,
    spec: Mapping[str, Any],
    code: str,
    data: Path,
    out: Path,
    history: Path | None = None,
    device: str = "auto",
    workers: int = 0,
    checkpoint_minutes: float = 5.0,
) -> None:
    """Train a classifier and write its weights with all that is needed to build it again.

    A training that was killed goes on from its last checkpoint, a hidden file beside `out`, if spec, code and data are
    the same; checkpoints go when the outputs are there.

    Args:
        spec: `dataset`, `classifier`, `architecture`, `training` (ids), `seed`, `model`, `model_options`, `stem`
            and either `method` and `options` (the training's and the loop's) or `weights`, `key`, `prefix`, `mean` and
            `std` (a brought classifier).
        code: digest of the code, for the provenance.
        data: the `train` split that prepare wrote.
        out: safetensors file.
        history: Parquet file, one row per epoch, split and metric; without rows for a brought classifier.
        device: `auto`, `cpu` or `cuda`.
        workers: processes that decode images, for data sets that stay in their files.
        checkpoint_minutes: least time between two checkpoints.

    Raises:
        UserError: the model cannot be built, the weights do not fit, the loss is not finite, or the memory does not
            suffice. The batch size is the recipe's, and batch normalisation looks at the whole batch, so no other and
            no smaller parts of a batch give the same result.
    """
    with joined(devices.choose(device)) as (part, chosen):
        tensors, origin = store.read_tensors(data, "prepare train")
        shape = origin["shape"]
        recipe = {name: spec[name] for name in ("model", "model_options", "stem")} | {
            "classes": len(origin["classes"]),
            "channels": shape[0],
            "mean": spec.get("mean") or origin["mean"],
            "std": spec.get("std") or origin["std"],
            "frequency": None if spec.get("mean") else origin["frequency"],
            "size": shape[1:],
        }
        torch.manual_seed(derive_seed(spec["seed"] or 0, "initialise", spec["architecture"]))
        classifier = build(recipe)
        inputs = {"data": data}
        meta = store.provenance("train", spec, code, inputs, devices.describe(chosen)) | {"recipe": recipe}
        checkpoints = Checkpoints(out, digest(canonical([meta[key] for key in ("spec", "code", "inputs", "device")])))
        rows: list[dict[str, float]] = []
        if "weights" in spec:
            state = read_weights(Path(spec["weights"]), spec["key"], spec["prefix"])
            load_weights(classifier.net, state, f"classifiers.{spec['classifier']}: {spec['weights']}")
        else:
            setting = Setting(chosen, part, workers, checkpoints, 60 * checkpoint_minutes)
            with listening(), devices.roomy(f"trainings.{spec['training']}", SMALLER):
                rows = _train(classifier.to(chosen), data, tensors, origin, spec, setting)
        if part.rank:
            return
        weights = {name: value.detach().cpu().numpy() for name, value in classifier.state_dict().items()}
        if history is not None:
            store.write_table(history, _columns(rows, spec), HISTORY, meta)
        store.write_tensors(out, weights, meta | {"history": rows})
        checkpoints.clear()


def _train(
    classifier: nn.Module,
    data: Path,
    tensors: Mapping[str, Any],
    origin: Mapping[str, Any],
    spec: Mapping[str, Any],
    setting: Setting,
) -> list[dict[str, float]]:
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    options = spec["options"]
    loop, step = ({name: options[name] for name in registry.signature(*part)} for part in specs.COMMON)
    train, validation = read_training(data, tensors, origin, setting.device)
    place = space(origin, origin["shape"])
    chosen = options["augmentation"]
    if chosen is not None:
        bound = {name: value for name, value in chosen.items() if name != "method"}
        chosen = functools.partial(registry.load("augmentation", chosen["method"]), **bound)
    print(f"training on {len(train.labels)} images, device {setting.device}", file=sys.stderr)
    return fit(
        step=make_step(classifier=classifier, method=_method(spec, place.box), space=place.map, augment=chosen, **step),
        train=train,
        validation=validation,
        seed=spec["seed"],
        setting=setting,
        **loop,
    )


def _method(spec: Mapping[str, Any], box: Box) -> Method:
    """The training with its options, and with the state and the box if it asks for them."""
    kind, name = "training", spec["method"]
    own = {option: spec["options"][option] for option in registry.options(kind, name)}
    state: dict[str, Tensor] = {}
    loss = functools.partial(
        registry.load(kind, name), **own, **registry.passed(kind, name, {"state": state, "box": box})
    )
    takes = registry.passed(kind, name, dict.fromkeys(("box", "progress")))
    return Method(loss, "box" in takes, "progress" in takes, own.get("replays", 1), state)


def _columns(rows: list[dict[str, float]], spec: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Epochs' rows in long form."""
    columns: dict[str, list[Any]] = {name: [] for name in HISTORY}
    for row in rows:
        for name, value in row.items():
            if name == "epoch":
                continue
            split, metric = next(
                ((part, name.removeprefix(f"{part}_")) for part in ("train", "validation") if name.startswith(part)),
                (None, name),
            )
            facts = {"epoch": int(row["epoch"]), "split": split, "metric": metric, "value": value}
            for column, fact in ({name: spec[name] for name in list(HISTORY)[:5]} | facts).items():
                columns[column].append(fact)
    return columns
