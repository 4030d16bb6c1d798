"""Margins in blocks of frequencies, side by side with plain loops over samples and blocks: a Markdown table.

"Plain" is subspace DeepFool as "Hold me tight!" describes it and nothing more: one sample and one block at a time, the
block as a matrix, the gradients of ten classes one after the other in each step; with the overshoot at its end, or with
20 halvings back to the boundary. Both look at the same classifier, on one thread, whose CPU seconds count. The plain
loops work on the first samples alone, on which the medians are compared; `as plain`: the share of margins within 1 %.
`without pruning` looks at all rivals in each step. Run from the repository root, with the extra `bench` installed:
`python -m benchmarks.dct_margin [--net digits]`.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
import unittest.mock
from collections.abc import Callable
from typing import Any

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.deepfool import NETS, processor, trained
from benchmarks.sparsefool import coloured_digits
from pipeline.measurements import _subspace_planes
from pipeline.measurements.dct_margin import dct_margin
from pipeline.models.classifier import build
from pipeline.numerics.passes import CountedModel
from pipeline.numerics.subspaces import dct_matrix

STEPS, OVERSHOOT, CANDIDATES, HALVINGS, FLOOR = 100, 0.02, 10, 20, 1e-4
ALIKE = 0.01  # where logits hardly change along the way, the lead over rounding that ours asks for takes some
Margins = Callable[[nn.Module, Tensor], list[float]]
NETS["digits"] = lambda: build(  # that of the default run
    {
        "model": "resnet18",
        "model_options": {"channels": [16, 32, 64, 128]},
        "stem": "small",
        "classes": 10,
        "channels": 1,
        "mean": [0.3],
        "std": [0.38],
    }
)


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels, in random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(images).float().view(-1, 1, 8, 8)[order] / 16, torch.from_numpy(labels).long()[order]


def plain(model: nn.Module, images: Tensor, *, size: int, step: int, refined: bool) -> list[float]:
    """Margins, sample by sample and block by block; inf where none was found."""
    spaces = list(matrices(images, size, step))
    return [plain_single(model, image[None], basis, refined) for image in images for basis in spaces]


def matrices(images: Tensor, size: int, step: int) -> list[Tensor]:
    """Orthonormal columns (entries, dimension) of each block on the diagonal."""
    channels, side = images.shape[1:3]
    cosines = dct_matrix(side, images)
    found = []
    for first in range(0, side - size + 1, step):
        rows = cosines[first : first + size]
        plane = torch.kron(rows, rows)  # (size * size, side * side)
        found.append(torch.kron(torch.eye(channels), plane).T.contiguous())
    return found


def plain_single(model: nn.Module, clean: Tensor, basis: Tensor, refined: bool) -> float:
    with torch.no_grad():
        classes = model(clean)[0].argsort(descending=True)[:CANDIDATES].tolist()
    shift = torch.zeros_like(clean)
    for _ in range(STEPS):
        point = (clean + shift).requires_grad_(True)
        logits = model(point)[0]
        gradients = [torch.autograd.grad(logits[k], point, retain_graph=True)[0].flatten() for k in classes]
        best, way = float("inf"), basis[:, 0]
        for k, gradient in zip(classes[1:], gradients[1:], strict=True):
            inside = basis.T @ (gradient - gradients[0])
            distance = float((logits[k] - logits[classes[0]]).detach().abs() / inside.norm())
            if distance < best:
                best, way = distance, basis @ (inside / inside.norm())
        shift = shift + ((best if refined else max(best, FLOOR)) * way).view_as(clean)
        with torch.no_grad():
            if int(model(clean + (1 + OVERSHOOT) * shift).argmax()) != classes[0]:
                break
    else:
        return float("inf")
    low, high = 0.0, 1 + OVERSHOOT
    for _ in range(HALVINGS if refined else 0):
        middle = (low + high) / 2
        with torch.no_grad():
            over = int(model(clean + middle * shift).argmax()) != classes[0]
        low, high = (low, middle) if over else (middle, high)
    return high * float(shift.norm())


def ours(model: nn.Module, images: Tensor, *, prune: bool = True, **options: Any) -> list[float]:
    """As `plain`."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    context = {"labels": labels, "seeds": labels, "views": (), "batch_size": 128, "steps": STEPS}
    shared = {"overshoot": OVERSHOOT, "candidates": CANDIDATES}
    with unittest.mock.patch.object(_subspace_planes, "GROWTH", _subspace_planes.GROWTH if prune else 1e9):
        table = dct_margin(model=model, images=images, **context, **shared, **options)
    return [float("inf") if margin is None else margin for margin in table["margin"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(NETS), default="resnet20")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--plain-samples", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method, of which the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    images, labels = digits() if arguments.net == "digits" else coloured_digits()
    blocks = {"size": 2, "step": 2} if arguments.net == "digits" else {"size": 8, "step": 2}
    model = trained(arguments.net, images[:1200], labels[:1200], arguments.epochs)
    images, labels = images[1200:], labels[1200:]
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    accuracy, images = right.double().mean().item(), images[right][: arguments.samples]

    methods: dict[str, tuple[Margins, int]] = {
        "plain, overshoot": (functools.partial(plain, **blocks, refined=False), arguments.plain_samples),
        "plain, halvings": (functools.partial(plain, **blocks, refined=True), arguments.plain_samples),
        "`mode: official`": (functools.partial(ours, **blocks, mode="official"), arguments.samples),
        "`mode: deepfool`": (functools.partial(ours, **blocks, mode="deepfool"), arguments.samples),
        "`mode: deepfool`, without pruning": (
            functools.partial(ours, **blocks, mode="deepfool", prune=False),
            arguments.samples,
        ),
        "`mode: superdeepfool`": (functools.partial(ours, **blocks), arguments.samples),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    found: dict[str, Tensor] = {}
    counts: dict[str, CountedModel] = {}
    for _ in range(arguments.rounds):
        for name, (method, samples) in methods.items():
            counted = counts[name] = CountedModel(model)
            start = time.process_time()
            found[name] = torch.tensor(method(counted, images[:samples]), dtype=torch.float64)
            seconds[name].append(time.process_time() - start)

    rates = {name: len(found[name]) / statistics.median(times) for name, times in seconds.items()}
    overshoot_rate, halvings_rate, *_ = rates.values()
    pairs = len(found["plain, halvings"])
    print("| margins | pairs/s | x plain, overshoot | x plain, halvings | found | median | as plain | passes, f + b |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in methods:
        reference = found["plain, overshoot"] if "overshoot" in name or "official" in name else found["plain, halvings"]
        alike = (found[name][:pairs] - reference).abs() <= ALIKE * reference
        counted, total = counts[name], len(found[name])
        print(
            f"| {name} | {rates[name]:.1f} | {rates[name] / overshoot_rate:.1f} | {rates[name] / halvings_rate:.1f} "
            f"| {found[name].isfinite().double().mean().item():.1%} | {found[name][:pairs].median().item():.4f} "
            f"| {alike.double().mean().item():.1%} "
            f"| {counted.forward_passes / total:.1f} + {counted.backward_passes / total:.1f} |"
        )
    whole, pruned = found["`mode: deepfool`, without pruning"], found["`mode: deepfool`"]
    changed = (~((whole - pruned).abs() <= 1e-5 * whole) & (whole.isfinite() | pruned.isfinite())).sum().item()
    print(
        f"\n{len(images)} correctly classified samples of {images.shape[-1]} x {images.shape[-1]} pixels in "
        f"{len(whole) // len(images)} blocks, the plain loops and all medians on the first {arguments.plain_samples}; "
        f"{arguments.net} ({accuracy:.1%} test accuracy); pruning changed {changed} of {len(whole)} margins; medians "
        f"of {arguments.rounds} rounds in alternation, one thread of {processor()}; torch {torch.__version__}, timm "
        f"{timm.__version__}, Python {platform.python_version()}."
    )


if __name__ == "__main__":
    main()
