"""The plug-in `autoattack` beside pyautoattack called directly: same classifier, samples, radius and seed.

The plug-in adds draws that do not depend on the batch, a rescaled box, and a check of what comes back. The two draw
other noise, so robust accuracies may differ by the luck of a few samples. One thread; prints one Markdown table. Run
from the repository root, with the extra `bench` installed: `python -m benchmarks.autoattack [--net resnet18]`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from benchmarks.deepfool import NETS, Attack, processor, trained
from benchmarks.sparsefool import coloured_digits
from pipeline.attacks.autoattack import autoattack
from pipeline.numerics.passes import CountedModel

SEED = 0


def directly(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> Tensor:
    """The library as its own documentation calls it."""
    name = {"linf": "Linf", "l2": "L2"}[norm]
    attack = AutoAttack(model, norm=name, eps=epsilon, seed=SEED, version="standard", device=images.device)
    found: Tensor = attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]
    return found


def plugged(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> Tensor:
    """The plug-in of this repository."""
    given = {"norm": norm, "epsilon": epsilon, "seed": SEED}
    return autoattack(model=model, images=images, labels=labels, seeds=torch.zeros_like(labels), **given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(NETS), default="resnet20")
    parser.add_argument("--samples", type=int, default=16, help="attacked images, one batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1, help="turns of each, of which the median counts")
    parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
    parser.add_argument("--epsilon", type=float, default=0.02)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    images, labels = coloured_digits()
    model = trained(arguments.net, images[:1200], labels[:1200], arguments.epochs)
    images, labels = images[1200:], labels[1200:]
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    images, labels = images[right][: arguments.samples], labels[right][: arguments.samples]

    methods: dict[str, Attack] = {
        "pyautoattack": lambda *given: directly(*given, arguments.norm, arguments.epsilon),
        "`autoattack`": lambda *given: plugged(*given, arguments.norm, arguments.epsilon),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    rows: dict[str, tuple[float, float, float]] = {}
    for turn in range(arguments.rounds):
        order = list(methods) if turn % 2 == 0 else list(methods)[::-1]
        for name in order:
            counted = CountedModel(model)
            start = time.perf_counter()
            found = methods[name](counted, images, labels)
            seconds[name].append(time.perf_counter() - start)
            with torch.no_grad():
                robust = (model(found).argmax(dim=1) == labels).double().mean().item()
            rows[name] = (robust, counted.forward_passes / len(labels), counted.backward_passes / len(labels))
    times = {name: statistics.median(turns) for name, turns in seconds.items()}
    print("| AutoAttack | seconds | time / pyautoattack | robust accuracy | passes, f + b |\n|---|---:|---:|---:|---:|")
    for name, (robust, ahead, back) in rows.items():
        share = times[name] / times["pyautoattack"]
        print(f"| {name} | {times[name]:.1f} | {share:.2f} | {robust:.1%} | {ahead:.0f} + {back:.0f} |")
    print(
        f"\n{len(labels)} correctly classified coloured digits of 32 x 32 pixels in one batch, {arguments.net}, "
        f"version standard, {arguments.norm} {arguments.epsilon}; medians of {arguments.rounds} rounds in alternation, "
        f"one thread of {processor()}; torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
