"""Time of a training step, relative to standard training: what augmentation and adversaries cost, on one device.

PRIME and AugMix see three views of each image (clean and two augmented), so they stand against standard training on
batches three times as large; an adversary with k steps stands against k + 1 standard steps. Steps alternate, so that
what else the machine does falls on all alike.
Run: `python -m benchmarks.training_step [--net narrow] [--device cuda] [--batch-size 128]`.
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

from pipeline import devices, registry
from pipeline.models.classifier import build
from pipeline.numerics.box import UNIT
from pipeline.training.optimisers import make_optimizer
from pipeline.training.step import Method, Step

ROUNDS, SIZE, CLASSES = 5, 32, 10
NETS = {
    "resnet18": {"model": "resnet18", "model_options": {}},
    "narrow": {"model": "resnet10t", "model_options": {"channels": [16, 32, 64, 128], "stem_width": 8}},
}
# name, options, images of the standard step as a multiple of the batch, goal as a multiple of that step's time
CASES: tuple[tuple[str, dict[str, Any], int, float | None], ...] = (
    ("prime", {}, 3, 1.3),
    ("prime", {"mode": "official"}, 3, 1.3),
    ("augmix", {}, 3, None),
    ("hybrid_augment", {}, 2, None),
    ("adversarial", {"epsilon": 8 / 255, "steps": 1}, 1, 2.3),
    ("adversarial", {"epsilon": 8 / 255, "steps": 7}, 1, 8.3),
    ("adversarial", {"epsilon": 8 / 255, "steps": 7, "weight_perturbation": 0.01}, 1, None),
    ("trades", {"epsilon": 8 / 255, "steps": 7}, 1, None),
    ("mart", {"epsilon": 8 / 255, "steps": 7}, 1, None),
    ("fast", {"epsilon": 8 / 255}, 1, None),
    ("free", {"epsilon": 8 / 255}, 1, None),
    ("curvature", {}, 1, None),
)


def stepper(net: str, name: str, options: dict[str, Any], size: int, device: torch.device) -> Callable[[], None]:
    """A function that takes one step of the optimiser on a fixed batch and waits for it."""
    recipe = {**NETS[net], "stem": "small", "classes": CLASSES, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    torch.manual_seed(0)
    classifier = build(recipe).to(device)
    solver = make_optimizer(classifier, "sgd", 0.01, 0.9, 5e-4)
    defaults = {key: option.default for key, option in registry.options("training", name).items()}
    state: dict[str, torch.Tensor] = {}
    context = registry.passed("training", name, {"state": state, "box": UNIT})
    loss = functools.partial(registry.load("training", name), **{**defaults, **options}, **context)
    takes = registry.passed("training", name, dict.fromkeys(("box", "progress")))
    method = Method(loss, "box" in takes, "progress" in takes, defaults.get("replays", 1), state)
    step = Step(classifier, method).train()
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, SIZE, SIZE, generator=draws).to(device)
    labels = torch.randint(CLASSES, (size,), generator=draws).to(device)

    def once() -> None:
        found, _ = step(images, labels, draws, 0.5)
        solver.zero_grad(set_to_none=True)
        found.backward()
        solver.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return once


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description="Training steps against standard ones, in one run.")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--batch-size", type=int, default=32)
    arguments.add_argument("--net", choices=NETS, default="resnet18")
    given = arguments.parse_args()
    device = devices.choose(given.device)
    torch.set_num_threads(1)
    hardware = devices.describe(device) if device.type == "cuda" else f"{platform.machine()}, one thread"
    print(f"{given.net}, {SIZE} px, batch {given.batch_size}, {hardware}, torch {torch.__version__}\n")
    print("| training | options | ms a step | standard, same images | ratio | goal |\n|---|---|---:|---:|---:|---:|")
    for name, options, multiple, goal in CASES:
        ours = stepper(given.net, name, options, given.batch_size, device)
        plain = stepper(given.net, "standard", {}, multiple * given.batch_size, device)
        pairs = [(seconds(ours), seconds(plain)) for _ in range(ROUNDS + 1)][1:]  # the first one warms up
        mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        told = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in options.items()
        )
        wanted = "" if goal is None else f"<= {goal}"
        print(f"| {name} | {told} | {1000 * mine:.0f} | {1000 * other:.0f} | {ratio:.2f} | {wanted} |", flush=True)


if __name__ == "__main__":
    main()
