"""DeepFool and SuperDeepFool side by side with foolbox and torchattacks: same classifier, samples and settings.

The classifiers are for images of 32 x 32 pixels: a ResNet-20 of widths 16-64, and a ResNet-18. Methods take turns, so
that what else the machine does falls on all alike; one thread; prints one Markdown table. Torchattacks looks at all ten
classes, the others at the nine that are not the label's or, in mode `official`, at ten with it: the same ones.
`folded`: on the classifier with batch normalisation folded into its convolutions, as the attack stage has it; what
fools counts as fooling on the original.
Run from the repository root, with the extra `bench` installed: `python -m benchmarks.deepfool [--net resnet18]`.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import timm
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sparsefool import NETS, coloured_digits
from pipeline.attacks.deepfool import deepfool
from pipeline.attacks.superdeepfool import superdeepfool
from pipeline.models.folding import folded
from pipeline.numerics.norms import l2
from pipeline.numerics.passes import CountedModel

STEPS, OVERSHOOT, CANDIDATES, WARM = 50, 0.02, 10, 4
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def trained(net: str, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A classifier trained for a few epochs, then frozen."""
    torch.manual_seed(0)
    model = NETS[net]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def ours(attack: Callable[..., Tensor], model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """An attack of this repository with the settings that all share."""
    given = {"overshoot": OVERSHOOT, "candidates": CANDIDATES, "seeds": torch.zeros_like(labels), **options}
    return attack(model=model, images=images, labels=labels, **given)


def by_foolbox(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Foolbox's L2DeepFoolAttack."""
    attack = foolbox.attacks.L2DeepFoolAttack(steps=STEPS, candidates=CANDIDATES, overshoot=OVERSHOOT)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    found: Tensor = attack.run(wrapped, images, foolbox.criteria.Misclassification(labels))
    return found


def by_torchattacks(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Torchattacks' DeepFool."""
    attack = torchattacks.DeepFool(model, steps=STEPS, overshoot=OVERSHOOT)
    attack.set_device(images.device)
    found: Tensor = attack(images, labels)
    return found


METHODS: dict[str, Attack] = {
    f"foolbox {foolbox.__version__}": by_foolbox,
    f"torchattacks {torchattacks.__version__}": by_torchattacks,
    "`deepfool`": functools.partial(ours, deepfool, steps=STEPS),
    "`deepfool`, `bisections: 0`": functools.partial(ours, deepfool, steps=STEPS, bisections=0),
    "`deepfool`, `mode: official`": functools.partial(ours, deepfool, steps=STEPS, mode="official"),
    "`superdeepfool`": functools.partial(ours, superdeepfool),
    f"foolbox {foolbox.__version__}, folded": by_foolbox,
    "**`deepfool`, folded**": functools.partial(ours, deepfool, steps=STEPS),
    "`deepfool`, `bisections: 0`, folded": functools.partial(ours, deepfool, steps=STEPS, bisections=0),
    "`deepfool`, `candidates: 2`, folded": functools.partial(ours, deepfool, steps=STEPS, candidates=2),
    "`superdeepfool`, folded": functools.partial(ours, superdeepfool),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(NETS), default="resnet20")
    parser.add_argument("--samples", type=int, default=128, help="attacked images, one batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method, of which the median counts")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    images, labels = coloured_digits()
    model = trained(arguments.net, images[:1200], labels[:1200], arguments.epochs)
    images, labels = images[1200:], labels[1200:]
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    accuracy = right.double().mean().item()
    images, labels = images[right][: arguments.samples], labels[right][: arguments.samples]

    quick = folded(model, images[:8])  # once a job in the attack stage
    targets = {name: quick if "folded" in name else model for name in METHODS}
    for name, method in METHODS.items():
        method(targets[name], images[:WARM], labels[:WARM])
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    found = {}
    for _ in range(arguments.rounds):
        for name, method in METHODS.items():
            start = time.perf_counter()
            found[name] = method(targets[name], images, labels)
            seconds[name].append(time.perf_counter() - start)

    rates = {name: len(labels) / statistics.median(times) for name, times in seconds.items()}
    foolbox_rate, torchattacks_rate, *_ = rates.values()
    print("| DeepFool | images/s | x foolbox | x torchattacks | fooled | in the box | median l2 | passes, f + b |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, method in METHODS.items():
        counted = CountedModel(targets[name])
        method(counted, images, labels)
        with torch.no_grad():
            fooled = model(found[name]).argmax(dim=1) != labels
        inside = ((found[name] >= 0) & (found[name] <= 1)).flatten(1).all(dim=1)
        size = torch.where(fooled, l2(found[name].double() - images.double()), torch.inf)
        print(
            f"| {name} | {rates[name]:.1f} | {rates[name] / foolbox_rate:.1f} | {rates[name] / torchattacks_rate:.1f} "
            f"| {fooled.double().mean().item():.1%} | {inside.double().mean().item():.1%} | {size.median().item():.4f} "
            f"| {counted.forward_passes / len(labels):.1f} + {counted.backward_passes / len(labels):.1f} |"
        )
    print(
        f"\n{len(labels)} correctly classified coloured digits of 32 x 32 pixels in one batch, {arguments.net} "
        f"({accuracy:.1%} test accuracy), overshoot {OVERSHOOT}, {STEPS} steps; medians of {arguments.rounds} rounds "
        f"in alternation, one thread of {processor()}; torch {torch.__version__}, timm {timm.__version__}, Python "
        f"{platform.python_version()}."
    )


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
