"""SparseFool side by side: torchattacks, the released algorithm image by image, and this repository; a Markdown table.

All attack the same classifier, a ResNet-20 or a ResNet-18 for 32 x 32 pixels, on the same samples, in turn, on one
thread. Torchattacks' method of that name is another algorithm: in each round it starts from the clean image again, so
that nothing accumulates, scales DeepFool's image by lambda and takes the normal there, not at the boundary, and has no
bounds but [0, 1]. It stops after 10 rounds, and loops over images and entries. `released` restates the authors' code,
with a loop over images and one over entries. `folded`: on the classifier with batch normalisation folded into its
convolutions, as the attack stage has it; what fools counts as fooling on the original. Run from the repository root,
with the extra `bench` installed: `python -m benchmarks.sparsefool [--net resnet18]`.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchattacks
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.sparsefool import sparsefool
from pipeline.models.classifier import build
from pipeline.models.folding import folded
from pipeline.numerics.norms import l0_pixels
from pipeline.numerics.passes import CountedModel

LAM, OVERSHOOT, CANDIDATES, STEPS, INNER_STEPS = 3.0, 0.02, 10, 20, 50

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def coloured_digits() -> tuple[Tensor, Tensor]:
    """The 1,797 digits of scikit-learn on 32 x 32 pixels, ink and paper of random colours, in random order."""
    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    grey = torch.from_numpy(images).float().view(-1, 1, 8, 8)[order] / 16
    grey = functional.interpolate(grey, size=(32, 32), mode="bilinear", antialias=True)
    ink = 0.6 + 0.4 * torch.rand(len(grey), 3, 1, 1, generator=generator)
    paper = 0.4 * torch.rand(len(grey), 3, 1, 1, generator=generator)
    noise = 0.1 * torch.randn(len(grey), 3, 32, 32, generator=generator)
    return (paper + (ink - paper) * grey + noise).clamp(0, 1), torch.from_numpy(labels).long()[order]


class Block(nn.Module):
    """Two convolutions and a shortcut, padded with zeros where the width grows."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, width - width_in
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, width_in, h, w) to (n, width, h / stride, w / stride)."""
        shortcut = functional.pad(images[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return functional.relu(self.body(images) + shortcut)


def resnet20() -> nn.Module:
    """The ResNet-20 of He et al. (CVPR 2016) for 32 x 32 pixels."""
    blocks = [Block(a, b, s) for a, b, s in [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2]
    blocks += [Block(a, b, s) for a, b, s in [(32, 64, 2)] + [(64, 64, 1)] * 2]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def resnet18() -> nn.Module:
    """The ResNet-18 for 32 x 32 pixels: stride-1 first convolution, no pooling."""
    recipe = {"model": "resnet18", "model_options": {}, "stem": "small", "classes": 10, "channels": 3}
    return build({**recipe, "mean": [0.5] * 3, "std": [0.25] * 3})


NETS: dict[str, Callable[[], nn.Module]] = {"resnet18": resnet18, "resnet20": resnet20}


def classifier(images: Tensor, labels: Tensor, epochs: int, net: Callable[[], nn.Module] = resnet20) -> nn.Module:
    """A network trained for a few epochs, then frozen."""
    torch.manual_seed(0)
    model = net()
    steps = epochs * (len(labels) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels))[: len(labels) // 64 * 64].split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            scheduler.step()
    return model.eval().requires_grad_(False)


def released(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The released algorithm in plain loops, one image at a time; the label is its own first prediction."""
    return torch.cat([released_single(model, image[None]) for image in images])


def released_single(model: nn.Module, clean: Tensor) -> Tensor:
    with torch.no_grad():
        label = int(model(clean).argmax())
    point = trial = clean
    for _ in range(STEPS):
        normal, beyond = released_deepfool(model, point)
        point = released_plane(point, normal, beyond)
        trial = (clean + (1 + OVERSHOOT) * (point - clean)).clamp(0, 1)
        with torch.no_grad():
            if int(model(trial).argmax()) != label:
                break
    return trial


def released_deepfool(model: nn.Module, start: Tensor) -> tuple[Tensor, Tensor]:
    """Unit normal of the boundary that DeepFool finds, and the point `LAM` times as far away."""
    with torch.no_grad():
        classes = model(start)[0].argsort(descending=True)[:CANDIDATES].tolist()
    shift, now = torch.zeros_like(start), classes[0]
    for _ in range(INNER_STEPS):
        gradients, logits = slopes(model, start + shift, classes)
        ways = [(logits[k] - logits[0], gradients[k] - gradients[0]) for k in range(1, len(classes))]
        gap, way = min(ways, key=lambda pair: float(pair[0].abs() / pair[1].norm()))
        shift = shift + max(float(gap.abs() / way.norm()), 1e-4) * way / way.norm()
        with torch.no_grad():
            now = int(model(start + (1 + OVERSHOOT) * shift).argmax())
        if now != classes[0]:
            break
    (new, old), _ = slopes(model, start + shift, [now, classes[0]])
    return (new - old) / (new - old).norm(), start + LAM * shift


def slopes(model: nn.Module, image: Tensor, classes: list[int]) -> tuple[list[Tensor], Tensor]:
    """Gradients of the chosen logits, and these logits."""
    point = image.clone().requires_grad_(True)
    logits = model(point)[0]
    return [torch.autograd.grad(logits[k], point, retain_graph=True)[0] for k in classes], logits[classes].detach()


def released_plane(point: Tensor, normal: Tensor, beyond: Tensor) -> Tensor:
    """Cross the plane, entry by entry."""
    left, target = normal.flatten().clone(), beyond.flatten()
    moved, weights = point.flatten().clone(), normal.flatten()
    sign = float(torch.dot(weights, moved - target).sign())
    while float(torch.dot(weights, moved - target).sign()) == sign and bool((left != 0).any()):
        value = torch.dot(weights, moved - target) + 0.001 * sign
        entry = int(left.abs().argmax())
        step = max(float(value.abs() / left[entry].abs()), 1e-4)
        moved[entry] = (moved[entry] + step * left[entry].sign()).clamp(0, 1)
        left[entry] = 0
    return moved.view_as(point)


def peer(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The method of this name in torchattacks, with its own defaults."""
    found: Tensor = torchattacks.SparseFool(model, steps=10, lam=LAM, overshoot=OVERSHOOT)(images, labels)
    return found


def ours(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """This repository's, a batch at once."""
    given: dict[str, Any] = {"lam": LAM, "steps": STEPS, "inner_steps": INNER_STEPS, "overshoot": OVERSHOOT, **options}
    return sparsefool(model=model, images=images, labels=labels, seeds=torch.zeros_like(labels), **given)


METHODS: dict[str, Attack] = {
    "torchattacks": peer,
    "released": released,
    "`mode: official`": functools.partial(ours, mode="official"),
    "`prune: 0`": functools.partial(ours, prune=0),
    "default": ours,
    "released, folded": released,
    "`prune: 0`, folded": functools.partial(ours, prune=0),
    "**default, folded**": ours,
    "`candidates: 3`, folded": functools.partial(ours, candidates=3),
    "`prune: 20`, folded": functools.partial(ours, prune=20),
    "`group: pixels`, folded": functools.partial(ours, group="pixels"),
}
LOOPS = ("torchattacks", "released")


def on_both(ours: Tensor, theirs: Tensor) -> str:
    """Median pixels of two methods on the samples that both fool."""
    both = ours.isfinite() & theirs.isfinite()
    return f"{ours[both].median().item():g} : {theirs[both].median().item():g}" if both.any() else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=sorted(NETS), default="resnet20")
    parser.add_argument("--samples", type=int, default=128, help="attacked images, in one batch")
    parser.add_argument("--slice", type=int, default=16, help="how many of them the loops over images get when timed")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds, in each of which every method runs once")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    images, labels = coloured_digits()
    model = classifier(images[:1400], labels[:1400], arguments.epochs, NETS[arguments.net])
    images, labels = images[1400:], labels[1400:]
    right = model(images).argmax(dim=1) == labels
    images, labels = images[right][: arguments.samples], labels[right][: arguments.samples]
    quick = folded(model, images[:8])  # once a job in the attack stage
    targets = {name: quick if "folded" in name else model for name in METHODS}
    sizes, passes = {}, {}
    for name, method in METHODS.items():
        counted = CountedModel(targets[name])
        found = method(counted, images, labels)
        passes[name] = f"{counted.forward_passes / len(labels):.1f} + {counted.backward_passes / len(labels):.1f}"
        valid = ((found >= 0) & (found <= 1)).flatten(1).all(dim=1) & (model(found).argmax(dim=1) != labels)
        sizes[name] = torch.where(valid, l0_pixels(found - images).double(), torch.inf)
    speeds: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(arguments.repeats):
        for name, method in METHODS.items():
            count = arguments.slice if name.startswith(LOOPS) else len(labels)
            start = time.perf_counter()
            method(targets[name], images[:count], labels[:count])
            speeds[name].append(min(count, len(labels)) / (time.perf_counter() - start))
    speed, pixels = (" | ".join(f"{what} to {loop}" for loop in LOOPS) for what in ("speed", "pixels"))
    print(f"| SparseFool | images/s | {speed} | success | median pixels | {pixels} | passes per image, f + b |")
    print(f"|---|{(3 + 2 * len(LOOPS)) * '---:|'}---:|")
    for name in METHODS:
        faster = [statistics.median(a / b for a, b in zip(speeds[name], speeds[loop], strict=True)) for loop in LOOPS]
        larger = [on_both(sizes[name], sizes[loop]) for loop in LOOPS]
        print(
            f"| {name} | {statistics.median(speeds[name]):.3g} | {' | '.join(f'{ratio:.3g}' for ratio in faster)} "
            f"| {sizes[name].isfinite().double().mean():.1%} | {sizes[name].median().item():g} "
            f"| {' | '.join(larger)} | {passes[name]} |"
        )
    print(
        f"\n{len(labels)} correctly classified samples ({right.double().mean():.1%} test accuracy), {arguments.net}, "
        f"32 px, lambda {LAM:g} unless given. Median pixels count failures as infinity; `pixels to` has both medians "
        f"on the samples that both fool. Speeds: medians of {arguments.repeats} rounds in alternation, the loops "
        f"on {arguments.slice} samples; one thread; torch {torch.__version__}, Python {platform.python_version()}."
    )


if __name__ == "__main__":
    main()
