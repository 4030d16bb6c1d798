"""How near attacks come to their floor: the wall time of their passes alone, each at the best batch size.

One forward pass (without a graph) and one backward pass (of a kept graph) are timed per sample at several batch sizes;
the smallest time of each counts. The floor of an attack is the passes that it makes times these. What lies above it is
batches that have grown small, graphs, and the attack's own arithmetic. One thread; prints one Markdown table. Run from
the repository root, with the extra `bench` installed: `python -m benchmarks.floor [--net resnet18]`.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.deepfool import NETS, STEPS, Attack, ours, processor, trained
from benchmarks.sparsefool import coloured_digits
from pipeline.attacks.deepfool import deepfool
from pipeline.attacks.pgd import pgd
from pipeline.attacks.sparsefool import sparsefool
from pipeline.attacks.superdeepfool import superdeepfool
from pipeline.numerics.passes import CountedModel

SIZES = (16, 32, 64, 128)
LEAST = 128  # samples that a timing takes


def pgd_l2(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Projected gradient ascent of 20 steps in l2."""
    seeds = torch.arange(len(labels))
    return pgd(model=model, images=images, labels=labels, seeds=seeds, norm="l2", epsilon=0.5, steps=20)


METHODS: dict[str, Attack] = {
    "`deepfool`": functools.partial(ours, deepfool, steps=STEPS),
    "`superdeepfool`": functools.partial(ours, superdeepfool),
    "`sparsefool`": functools.partial(ours, sparsefool, candidates=None),
    "`pgd`, l2, 20 steps": pgd_l2,
}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pass_times(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Seconds per sample of a forward and of a backward pass in one batch."""
    turns = range(max(1, LEAST // len(images)))

    @torch.no_grad()
    def forward() -> None:
        for _ in turns:
            model(images)

    def backward() -> None:
        for _ in turns:
            torch.autograd.grad(total, points, retain_graph=True)

    points = images.detach().requires_grad_(True)
    total = model(points)[:, 0].sum()
    samples = len(images) * len(turns)
    return seconds(forward) / samples, seconds(backward) / samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(NETS), default="resnet20")
    parser.add_argument("--samples", type=int, default=128, help="attacked images, one batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method, of which the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    images, labels = coloured_digits()
    model = trained(arguments.net, images[:1200], labels[:1200], arguments.epochs)
    images, labels = images[1200:], labels[1200:]
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    images, labels = images[right][: arguments.samples], labels[right][: arguments.samples]

    sizes = [size for size in SIZES if size <= len(images)] or [len(images)]
    passes: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(arguments.rounds):  # methods and passes take turns, so that what else runs falls on all alike
        for size in sizes:
            passes[size].append(pass_times(model, images[:size]))
        for name, method in METHODS.items():
            times[name].append(seconds(functools.partial(method, model, images, labels)))
    forward, backward = (min(statistics.median(turn[way] for turn in passes[size]) for size in sizes) for way in (0, 1))

    print("| attack | ms an image | passes, f + b | floor, ms | time / floor |\n|---|---:|---:|---:|---:|")
    for name, method in METHODS.items():
        counted = CountedModel(model)
        method(counted, images, labels)
        ahead, back = counted.forward_passes / len(labels), counted.backward_passes / len(labels)
        taken, floor = statistics.median(times[name]) / len(labels), ahead * forward + back * backward
        print(f"| {name} | {taken * 1e3:.2f} | {ahead:.1f} + {back:.1f} | {floor * 1e3:.2f} | {taken / floor:.2f} |")
    print(
        f"\n{len(labels)} correctly classified coloured digits of 32 x 32 pixels in one batch, {arguments.net}: "
        f"{forward * 1e3:.3f} ms a forward pass, {backward * 1e3:.3f} ms a backward pass; medians of "
        f"{arguments.rounds} rounds in alternation, one thread of {processor()}; torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
