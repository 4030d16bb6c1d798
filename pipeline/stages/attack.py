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
from pipeline.stages import shards
from pipeline.stages.inputs import FEWER, Evaluation, Stored, load_classifier, passes, read_stored

PROBE = 8  # images on which the folded classifier must agree with the original


def attack(
    *,
    spec: Mapping[str, Any],
    code: str,
    classifier: Path,
    data: Path,
    out: Path,
    device: str = "auto",
    batch_size: int | None = None,
) -> None:
    """Attack the evaluation images that are classified correctly; the others stay as they are.

    The attack sees the classifier with batch normalisation folded away (`models.folding`), which is faster; what fools
    that but, by rounding, not the original is attacked again on the original. What comes out is not trusted: success,
    box and norms are re-measured by the `perturbation` measurement.

    Args:
        spec: `attack` (id), `method`, `options`, `seed`, and `shard` if only some of the samples are meant.
        code: digest of the code, for the provenance.
        classifier: a file that train wrote.
        data: the `evaluation` split that prepare wrote.
        out: safetensors file: images float32 (n, c, h, w) in the space of the data set, and ids; in its metadata the
            norm and epsilon of the attack, forward and backward passes per attacked sample (mean, counted outside the
            attack), and for an attack with an epsilon in a bounded space the share of the first 64 attacked samples on
            which it succeeds if epsilon is the diameter of the box (where it does not, the gradients mislead it), and
            the beginnings of the warnings that a library of the attack logged.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time, at most; None: as the memory allows (`devices`). It does not change the result.
    """
    method = registry.load("attack", spec["method"])
    chosen = devices.choose(device)
    stored = read_stored(data)
    own = shards.rows(spec.get("shard"), len(stored))
    with devices.roomy(str(data), FEWER):
        evaluation = stored.part(own, chosen)
        model, origin = load_classifier(classifier, chosen)
    seeds = evaluation.seeds(spec["seed"], "attack", spec["attack"])
    options = spec["options"]
    norm = options.get("norm") or sys.modules[method.__module__].NORM

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

    quick = folded(model, stored.part(slice(PROBE), chosen).images)  # the same for all shards

    def attacked(batch_size: int) -> tuple[Tensor, dict[str, int], set[str]]:
        perturbed = evaluation.images.clone()
        with frozen(model), frozen(quick), overheard() as warnings:
            correct = _correct(model, evaluation, batch_size)
            counted = CountedModel(quick)
            for done, rows in enumerate(torch.split(correct, batch_size)):
                perturbed[rows] = run(counted, rows, **options)
                lost = rows[_lost(quick, model, perturbed[rows], evaluation.labels[rows])]
                if len(lost):
                    counted.model = model
                    perturbed[lost] = run(counted, lost, **options)
                    counted.model = quick
                ready = min((done + 1) * batch_size, len(correct))
                print(f"{ready} of {len(correct)} images", file=sys.stderr, flush=True)
            probed, fooled = correct[:0], 0
            whole = evaluation.space.box.diameter(evaluation.images.shape[1:], norm)
            if "epsilon" in options and math.isfinite(whole):
                probed = correct[: PROBED - _correct_before(model, stored, own.start, chosen, batch_size)]
            free: dict[str, Any] = {"epsilon": whole}
            if "step_size" in options:
                free["step_size"] = None  # it was chosen for the other epsilon
            for rows in torch.split(probed, batch_size) if len(probed) else ():
                far = run(quick, rows, **{**options, **free})
                with torch.no_grad():
                    fooled += int((model(far).argmax(1) != evaluation.labels[rows]).sum())
        counts = {"attacked": len(correct), "forward": counted.forward_passes, "backward": counted.backward_passes}
        return perturbed, counts | {"probed": len(probed), "fooled": fooled}, warnings

    size = devices.batch_size(batch_size, chosen, len(evaluation.ids), passes(model, evaluation.images))
    perturbed, counts, warnings = devices.fitting(f"attacks.{spec['attack']}", attacked, size)
    meta = store.provenance(
        "attack", spec, code, {"classifier": classifier, "data": data}, devices.describe(chosen)
    ) | {
        "classifier": {name: origin["spec"][name] for name in ("dataset", "classifier")},
        "norm": norm,
        "epsilon": options.get("epsilon"),
        **shards.effort(counts),
        "counts": counts,  # from which `measure` tells the same of all shards
        "warnings": sorted(warnings),
    }
    store.write_tensors(out, {"images": perturbed.cpu().numpy(), "ids": store.pack(evaluation.ids)}, meta)


@torch.no_grad()
def _correct(model: nn.Module, evaluation: Evaluation, batch_size: int) -> Tensor:
    """Numbers (k,) of the samples that are classified correctly."""
    predictions = torch.cat([model(images).argmax(1) for images in torch.split(evaluation.images, batch_size)])
    return (predictions == evaluation.labels).nonzero().flatten()


def _correct_before(model: nn.Module, stored: Stored, end: int, device: torch.device, batch_size: int) -> int:
    """How many samples before a shard are classified correctly, at most as many as are probed."""
    found = 0
    for start in range(0, end, batch_size):
        if found < PROBED:
            found += len(_correct(model, stored.part(slice(start, min(start + batch_size, end)), device), batch_size))
    return min(found, PROBED)


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
