"""corrupt: evaluation images -> the same images, corrupted at five severities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline import archives, devices, registry, store
from pipeline.stages.inputs import read_pixels

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    *,
    spec: Mapping[str, Any],
    code: str,
    data: Path,
    out: Path,
    downloaded: Path | None = None,
    device: str = "auto",
    batch_size: int = 512,
) -> None:
    """Write the corrupted evaluation images, rounded to 8 bits as the published sets are.

    They are pixels, also where the data set has a frequency map: it is applied behind the corruption, by `measure`.

    Args:
        spec: `corruption` (id), `method`, `options`, `seed`.
        code: digest of the code, for the provenance.
        data: the `evaluation` split that prepare wrote.
        out: safetensors file: images uint8 (severity, n, c, h, w) and ids; `family` in the metadata.
        downloaded: folder that `download` wrote, for a corruption out of a published archive.
        device: `auto`, `cpu` or `cuda`.
        batch_size: images at a time; it does not change the result.

    Raises:
        UserError: the data are no pixels.
    """
    method = registry.load("corruption", spec["method"])
    chosen = devices.choose(device)
    evaluation = read_pixels(data, chosen)
    levels = []
    for severity in SEVERITIES:
        seeds = evaluation.seeds(spec["seed"], "corrupt", spec["corruption"], severity)
        parts = []
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            context = {
                "images": evaluation.images[rows],
                "labels": evaluation.labels[rows],
                "ids": evaluation.ids[rows],
                "seeds": seeds[rows],
                "severity": severity,
                "downloaded": downloaded,
            }
            parts.append(method(**registry.passed("corruption", spec["method"], context), **spec["options"]))
        levels.append((torch.cat(parts).clamp(0, 1) * 255).round().to(torch.uint8).cpu())
    meta = store.provenance("corrupt", spec, code, {"data": data}, devices.describe(chosen))
    tensors = {"images": torch.stack(levels).numpy(), "ids": store.pack(evaluation.ids)}
    store.write_tensors(out, tensors, meta | {"severities": SEVERITIES, "family": _family(spec)})


def _family(spec: Mapping[str, Any]) -> str:
    """Noise, blur, ...: as the method says, or the catalogue for one out of an archive."""
    if "archive" in spec["options"]:
        return archives.member_named(spec["options"]["archive"], spec["options"]["corruption"], "--spec").family
    return str(registry.constant("corruption", spec["method"], "FAMILY"))
