"""attack: classifier and evaluation images -> perturbed images."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import devices, registry, store
from pipeline.models.folding import folded
from pipeline.models.integrity import frozen
from pipeline.numerics.passes import CountedModel
from pipeline.numerics.reliability import PROBED
from pipeline.stages.inputs import load_classifier, read_evaluation

PROBE = 8  # images on which the folded classifier must agree with the original


def attack(
    *,
    spec: Mapping[str, Any],
    code: str,
    classifier: Path,
    data: Path,
    out: Path,
    device: str = "auto",
    batch_size: int = 256,
) -> None:
    """Attack the evaluation images that are classified correctly; the others stay as they are.

    The attack sees the classifier with batch normalisation folded away (`models.folding`), which is faster; what fools
    that but, by rounding, not the original is attacked again on the original. What comes out is not trusted: success,
    box and norms are re-measured by the `perturbation` measurement.

    Args:
        spec: `attack` (id), `method`, `options`, `seed`.
        code: digest of the code, for the provenance.
        classifier: a file that train wrote.
        data: the `evaluation` split that prepare wrote.
        out: safetensors file: images float32 (n, c, h, w) in the space of the data set, and ids; in its metadata the
            norm and epsilon of the attack, forward and backward passes per attacked sample (mean, counted outside the
            attack), and for an attack with an epsilon in a bounded space the share of the first 64 attacked samples on
            which it succeeds if epsilon is the diameter of the box (where it does not, the gradients mislead it), and
            the beginnings of the warnings that a library of the attack logged.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time; it does not change the result.
    """
    method = registry.load("attack", spec["method"])
    chosen = devices.choose(device)
    evaluation = read_evaluation(data, chosen)
    model, origin = load_classifier(classifier, chosen)
    seeds = evaluation.seeds(spec["seed"], "attack", spec["attack"])
    perturbed = evaluation.images.clone()
    options = spec["options"]

    def run(target: nn.Module, rows: Tensor, **given: Any) -> Tensor:
        context = {
            "model": target,
            "images": evaluation.images[rows],
            "labels": evaluation.labels[rows],
            "seeds": seeds[rows.cpu()],
            "box": evaluation.space.box,
        }
        found: Tensor = method(**registry.passed("attack", spec["method"], context), **given)
        return found

    quick = folded(model, evaluation.images[:PROBE])
    with frozen(model), frozen(quick), overheard() as warnings:
        with torch.no_grad():
            predictions = torch.cat([model(images).argmax(1) for images in torch.split(evaluation.images, batch_size)])
        correct = (predictions == evaluation.labels).nonzero().flatten()
        counted = CountedModel(quick)
        for done, rows in enumerate(torch.split(correct, batch_size)):
            perturbed[rows] = run(counted, rows, **options)
            lost = rows[_lost(quick, model, perturbed[rows], evaluation.labels[rows])]
            if len(lost):
                counted.model = model
                perturbed[lost] = run(counted, lost, **options)
                counted.model = quick
            print(f"{min((done + 1) * batch_size, len(correct))} of {len(correct)} images", file=sys.stderr, flush=True)
        norm = options.get("norm") or sys.modules[method.__module__].NORM
        success, probed = None, correct[:PROBED]
        whole = evaluation.space.box.diameter(evaluation.images.shape[1:], norm)
        if "epsilon" in options and len(probed) and math.isfinite(whole):
            free: dict[str, Any] = {"epsilon": whole}
            if "step_size" in options:
                free["step_size"] = None  # it was chosen for the other epsilon
            far = run(quick, probed, **{**options, **free})
            with torch.no_grad():
                success = float((model(far).argmax(1) != evaluation.labels[probed]).float().mean())
    meta = store.provenance(
        "attack", spec, code, {"classifier": classifier, "data": data}, devices.describe(chosen)
    ) | {
        "classifier": {name: origin["spec"][name] for name in ("dataset", "classifier")},
        "norm": norm,
        "epsilon": options.get("epsilon"),
        "forward_passes": counted.forward_passes / max(len(correct), 1),
        "backward_passes": counted.backward_passes / max(len(correct), 1),
        "large_epsilon_success": success,
        "warnings": sorted(warnings),
    }
    store.write_tensors(out, {"images": perturbed.cpu().numpy(), "ids": store.pack(evaluation.ids)}, meta)


@torch.no_grad()
def _lost(quick: nn.Module, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Images that fool the folded classifier but, by rounding, not the original, (n,) bool."""
    if quick is model:
        return torch.zeros_like(labels, dtype=torch.bool)
    fooled: Tensor = quick(images).argmax(1) != labels
    lost: Tensor = fooled & (model(images).argmax(1) == labels)
    return lost


@contextlib.contextmanager
def overheard() -> Iterator[set[str]]:
    """What the libraries of an attack log as warnings: their first clauses, with n for numbers, which are a batch's."""
    heard: set[str] = set()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"{record.name}: {record.getMessage()}", file=sys.stderr)  # as it would be without a handler
            if not record.name.startswith("pipeline"):
                heard.add(re.sub(r"\d[\d.]*", "n", re.split(r"[.!](?=\s|$)", record.getMessage())[0]).strip())

    listener = Listener(logging.WARNING)
    logging.getLogger().addHandler(listener)
    try:
        yield heard
    finally:
        logging.getLogger().removeHandler(listener)
