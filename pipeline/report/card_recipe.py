"""How a classifier was made, as far as the config says it, and how to make it or its relatives again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import paths
from pipeline.report.outcomes import BROUGHT, Outcomes

PARTS = ("dataset", "architecture", "training", "seed")
PROFILE = "workflow/profiles/local"
Options = Sequence[tuple[str, str]]


class Relative(NamedTuple):
    """Another classifier: its id, and the link to its page."""

    classifier: str
    link: str


def recipe(outcomes: Outcomes, config: Mapping[str, Any] | None) -> list[tuple[str, Options]]:
    """(part of the recipe, its options); an empty list without a config."""
    config = config or {}
    found: list[tuple[str, Options]] = []
    brought = _entry(config, "classifiers", outcomes.classifier)
    if brought is not None and outcomes.seed is None:
        found.append(("Trained elsewhere", _options(brought)))
    else:
        if (architecture := _entry(config, "architectures", outcomes.architecture)) is not None:
            found.append((f"Architecture {outcomes.architecture}", _options(architecture)))
        if (training := _entry(config, "trainings", outcomes.training)) is not None:
            method = training.pop("method", outcomes.training)
            augmentation = training.pop("augmentation", None)
            found.append((f"Training {outcomes.training}", [("method", _value(method)), *_options(training)]))
            if augmentation:
                found.append(("Augmentation before the training", _options(augmentation)))
    if (dataset := _entry(config, "datasets", outcomes.dataset)) is not None:
        source = dataset.pop("source", outcomes.dataset)
        found.append((f"Data set {outcomes.dataset}", [("source", _value(source)), *_options(dataset)]))
    return found


def seed(outcomes: Outcomes) -> str:
    """The training's seed, in words."""
    return "none: trained elsewhere" if outcomes.seed is None else str(outcomes.seed)


def evaluated(rows: pd.DataFrame | None) -> str:
    """How many images the classifier was evaluated on, in words; "" if its accuracy was not measured."""
    if rows is None or not {"sample", "label"} <= set(rows):
        return ""
    return f"{rows['sample'].nunique()} images of {rows['label'].nunique()} classes"


def relatives(outcomes: Outcomes, classifiers: Sequence[Outcomes]) -> list[tuple[str, list[Relative]]]:
    """(how they are related, classifiers) that differ in the seed, the training or the data set alone."""
    page = paths.card(outcomes.dataset, outcomes.classifier)
    others = [other for other in classifiers if other.training != BROUGHT and outcomes.training != BROUGHT]

    def differing(part: str) -> list[Relative]:
        found = []
        for other in others:
            if [name for name in PARTS if getattr(other, name) != getattr(outcomes, name)] == [part]:
                name = f"{other.classifier} on {other.dataset}" if part == "dataset" else other.classifier
                found.append(Relative(name, paths.link(paths.card(other.dataset, other.classifier), page)))
        return found

    groups = {
        "The same recipe with another seed": differing("seed"),
        "The same architecture and seed with another training": differing("training"),
        "The same recipe on another data set": differing("dataset"),
    }
    return [(how, found) for how, found in groups.items() if found]


def target(outcomes: Outcomes) -> str:
    """The classifier's file, where the workflow puts it."""
    return f"results/models/{outcomes.dataset}/{outcomes.classifier}.safetensors"


def command(outcomes: Outcomes) -> str:
    """What makes this classifier alone."""
    return f".venv/bin/snakemake --workflow-profile {PROFILE} {shlex.quote(target(outcomes))}"


def provenance(outcomes: Outcomes) -> str:
    """What says how the classifier's file was made."""
    return f".venv/bin/python -m pipeline provenance {shlex.quote(target(outcomes))} --all"


def snippet(outcomes: Outcomes) -> str:
    """Python that loads the weights and classifies the evaluation images."""
    data = f"results/data/{outcomes.dataset}/evaluation.safetensors"
    return "\n".join(
        (
            "from pathlib import Path",
            "import torch",
            "from pipeline.stages.inputs import load_classifier, read_evaluation",
            "",
            'device = torch.device("cpu")',
            f"classifier, metadata = load_classifier(Path({target(outcomes)!r}), device)",
            f"evaluation = read_evaluation(Path({data!r}), device)",
            "with torch.inference_mode():",
            "    predictions = classifier(evaluation.images).argmax(dim=1)",
            "accuracy = (predictions == evaluation.labels).double().mean().item()",
        )
    )


def _entry(config: Mapping[str, Any], section: str, name: str) -> dict[str, Any] | None:
    """An entry of the config; None if there is no such, {} if it names no options."""
    entries = config.get(section) or {}
    return dict(entries[name] or {}) if name in entries else None


def _options(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), _value(value)) for name, value in sorted(entry.items())]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
