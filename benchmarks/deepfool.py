"""DeepFool side by side with foolbox: same classifier, samples and settings, one thread; prints one Markdown table.

Run from the repository root, with the extra `bench` installed: `python -m benchmarks.deepfool`.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import foolbox
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.deepfool import deepfool
from pipeline.numerics.norms import l2
from pipeline.numerics.passes import CountedModel

STEPS, OVERSHOOT, CANDIDATES = 50, 0.02, 10


def digits(extent: int) -> tuple[Tensor, Tensor]:
    """The 1,797 digits of scikit-learn, enlarged to extent x extent pixels, in random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    pixels = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    enlarged = functional.interpolate(pixels, size=(extent, extent), mode="bilinear", antialias=True)
    return enlarged[order].clamp(0, 1), torch.from_numpy(labels).long()[order]


def classifier(images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A narrow ResNet-18 with a stem for small images, trained for a few epochs, then frozen."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("resnet18", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def ours(model: nn.Module, images: Tensor, labels: Tensor, bisections: int) -> Tensor:
    """This repository's DeepFool."""
    return deepfool(
        model=model,
        images=images,
        labels=labels,
        seeds=torch.zeros_like(labels),
        steps=STEPS,
        overshoot=OVERSHOOT,
        candidates=CANDIDATES,
        bisections=bisections,
    )


def peer(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Foolbox's L2DeepFoolAttack."""
    attack = foolbox.attacks.L2DeepFoolAttack(steps=STEPS, candidates=CANDIDATES, overshoot=OVERSHOOT)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    found: Tensor = attack.run(wrapped, images, foolbox.criteria.Misclassification(labels))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128, help="attacked images")
    parser.add_argument("--extent", type=int, default=16, help="pixels of a side")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs, of which the fastest counts")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)

    images, labels = digits(arguments.extent)
    model = classifier(images[:1200], labels[:1200], arguments.epochs)
    images, labels = images[1200:], labels[1200:]
    right = model(images).argmax(dim=1) == labels
    accuracy = right.double().mean().item()
    images, labels = images[right][: arguments.samples], labels[right][: arguments.samples]

    methods: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
        f"foolbox {foolbox.__version__}": peer,
        "this repository, bisections: 0": lambda *context: ours(*context, 0),
        "this repository, bisections: 10": lambda *context: ours(*context, 10),
    }
    print("| DeepFool | images/s | success | median l2 | l2 to foolbox's, median ratio | passes per image, f + b |")
    print("|---|---|---|---|---|---|")
    reference = None
    for name, method in methods.items():
        method(model, images[:8], labels[:8])  # warm up
        seconds = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            found = method(model, images, labels)
            seconds.append(time.perf_counter() - start)
        counted = CountedModel(model)
        method(counted, images, labels)
        inside = ((found >= 0) & (found <= 1)).flatten(1).all(dim=1)
        success = (model(found).argmax(dim=1) != labels) & inside
        size = torch.where(success, l2(found.double() - images.double()), torch.inf)
        reference = size if reference is None else reference
        both = size.isfinite() & reference.isfinite()
        print(
            f"| {name} | {len(labels) / min(seconds):.1f} | {success.double().mean().item():.1%} "
            f"| {size.median().item():.4f} | {(size / reference)[both].median().item():.4f} "
            f"| {counted.forward_passes / len(labels):.1f} + {counted.backward_passes / len(labels):.1f} |"
        )
    print(
        f"\n{len(labels)} correctly classified digits of {arguments.extent} x {arguments.extent} pixels in one batch, "
        f"ResNet-18 of widths 16-128 ({accuracy:.1%} test accuracy), {STEPS} steps, {CANDIDATES} candidates, overshoot "
        f"{OVERSHOOT}; fastest of {arguments.repeats} runs, one thread of {processor()}; "
        f"torch {torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}."
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
