"""train: data -> a classifier, trained here or brought from elsewhere."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import devices, registry, store
from pipeline.contracts import derive_seed
from pipeline.models.classifier import build
from pipeline.models.weights import load_weights, read_weights
from pipeline.training.loop import Split, fit


def train(*, spec: Mapping[str, Any], code: str, data: Path, out: Path, device: str = "auto") -> None:
    """Train a classifier and write its weights with all that is needed to build it again.

    Args:
        spec: `dataset`, `classifier`, `architecture`, `training` (ids), `seed`, `model`, `model_options`, `stem`
            and either `method` and `options` (the training's and the loop's) or `weights`, `key`, `prefix`, `mean` and
            `std` (a brought classifier).
        code: digest of the code, for the provenance.
        data: the `train` split that prepare wrote.
        out: safetensors file.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: the model cannot be built, the weights do not fit, or the loss is not finite.
    """
    tensors, origin = store.read_tensors(data, "prepare train")
    recipe = {name: spec[name] for name in ("model", "model_options", "stem")} | {
        "classes": len(origin["classes"]),
        "channels": tensors["train_images"].shape[1],
        "mean": spec.get("mean") or origin["mean"],
        "std": spec.get("std") or origin["std"],
    }
    chosen = devices.choose(device)
    history: list[dict[str, float]] = []
    torch.manual_seed(derive_seed(spec["seed"] or 0, "initialise", spec["architecture"]))
    classifier = build(recipe)
    if "weights" in spec:
        state = read_weights(Path(spec["weights"]), spec["key"], spec["prefix"])
        load_weights(classifier.net, state, f"classifiers.{spec['classifier']}: {spec['weights']}")
    else:
        history = _train(classifier.to(chosen), tensors, spec, chosen)
    meta = store.provenance("train", spec, code, {"data": data}, devices.describe(chosen)) | {
        "recipe": recipe,
        "history": history,
    }
    store.write_tensors(out, {k: v.detach().cpu().numpy() for k, v in classifier.state_dict().items()}, meta)


def _train(
    classifier: nn.Module, tensors: Mapping[str, Any], spec: Mapping[str, Any], device: torch.device
) -> list[dict[str, float]]:
    # Architecture and training share the seed but not the stream; the order of the data is the same for all trainings.
    order, draws = (torch.Generator().manual_seed(derive_seed(spec["seed"], name)) for name in ("order", "training"))
    torch.manual_seed(derive_seed(spec["seed"], "dropout"))
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    method = registry.load("training", spec["method"])
    own = registry.options("training", spec["method"])
    bound = functools.partial(
        method, classifier=classifier, generator=draws, **{name: spec["options"][name] for name in own}
    )
    split = {
        name: Split(*(torch.from_numpy(tensors[f"{name}_{part}"]).to(device) for part in ("images", "labels")))
        for name in ("train", "validation")
    }
    print(f"training on {len(split['train'].labels)} images, device {device}", file=sys.stderr)
    return fit(
        classifier=classifier,
        step=lambda images, labels: bound(images=images, labels=labels),
        train=split["train"],
        validation=split["validation"],
        generator=order,
        **{name: value for name, value in spec["options"].items() if name not in own},
    )
