"""corrupt: evaluation images -> the same images, corrupted at five severities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline import devices, registry, store
from pipeline.stages.inputs import read_pixels

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    *, spec: Mapping[str, Any], code: str, data: Path, out: Path, device: str = "auto", batch_size: int = 512
) -> None:
    """Write the corrupted evaluation images, rounded to 8 bits as the published sets are.

    They are pixels, also where the data set has a frequency map: it is applied behind the corruption, by `measure`.

    Args:
        spec: `corruption` (id), `method`, `options`, `seed`.
        code: digest of the code, for the provenance.
        data: the `evaluation` split that prepare wrote.
        out: safetensors file: images uint8 (severity, n, c, h, w) and ids.
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
        parts = [
            method(images=images, seeds=part, severity=severity, **spec["options"])
            for images, part in zip(
                torch.split(evaluation.images, batch_size), torch.split(seeds, batch_size), strict=True
            )
        ]
        levels.append((torch.cat(parts).clamp(0, 1) * 255).round().to(torch.uint8).cpu())
    meta = store.provenance("corrupt", spec, code, {"data": data}, devices.describe(chosen))
    tensors = {"images": torch.stack(levels).numpy(), "ids": store.pack(evaluation.ids)}
    store.write_tensors(out, tensors, meta | {"severities": SEVERITIES})
