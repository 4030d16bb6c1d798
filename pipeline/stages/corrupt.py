"""corrupt: evaluation images -> the same images, corrupted at five severities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline import archives, devices, registry, store
from pipeline.stages.inputs import FEWER, read_pixels

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    *,
    spec: Mapping[str, Any],
    code: str,
    data: Path,
    out: Path,
    downloaded: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
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
        batch_size: images at a time, at most; None: as the memory allows (`devices`). It does not change the result.

    Raises:
        UserError: the data are no pixels.
    """
    method = registry.load("corruption", spec["method"])
    chosen = devices.choose(device)
    with devices.roomy(str(data), FEWER):
        evaluation = read_pixels(data, chosen)

    def run(severity: int, rows: slice) -> Tensor:
        context = {
            "images": evaluation.images[rows],
            "labels": evaluation.labels[rows],
            "ids": evaluation.ids[rows],
            "seeds": seeds[severity][rows],
            "severity": severity,
            "downloaded": downloaded,
        }
        found: Tensor = method(**registry.passed("corruption", spec["method"], context), **spec["options"])
        return found.clamp(0, 1).mul_(255).round_().to(torch.uint8).cpu()

    def corrupted(batch_size: int) -> Tensor:
        levels = []
        for severity in SEVERITIES:
            starts = range(0, len(evaluation.ids), batch_size)
            levels.append(torch.cat([run(severity, slice(start, start + batch_size)) for start in starts]))
        return torch.stack(levels)

    seeds = {each: evaluation.seeds(spec["seed"], "corrupt", spec["corruption"], each) for each in SEVERITIES}
    size = devices.batch_size(batch_size, chosen, len(evaluation.ids), lambda count: run(SEVERITIES[-1], slice(count)))
    images = devices.fitting(f"corruptions.{spec['corruption']}", corrupted, size)
    meta = store.provenance("corrupt", spec, code, {"data": data}, devices.describe(chosen))
    tensors = {"images": images.numpy(), "ids": store.pack(evaluation.ids)}
    store.write_tensors(out, tensors, meta | {"severities": SEVERITIES, "family": _family(spec)})


def _family(spec: Mapping[str, Any]) -> str:
    """Noise, blur, ...: as the method says, or the catalogue for one out of an archive."""
    if "archive" in spec["options"]:
        return archives.member_named(spec["options"]["archive"], spec["options"]["corruption"], "--spec").family
    return str(registry.constant("corruption", spec["method"], "FAMILY"))
