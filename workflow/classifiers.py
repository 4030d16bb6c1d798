"""The classifiers of a config: those that it trains, and those that it brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pipeline import registry, specs
from pipeline.contracts import UserError
from workflow.checks import check_model

OPTIONS = Annotated[Mapping[str, Any], "of names to finite numbers, texts, true, false, lists or such mappings"]
Classifiers = Iterator[tuple[tuple[str, str], dict[str, Any]]]  # ((data set, classifier), spec)


def trained(config: Mapping[str, Any], name: str) -> Classifiers:
    """Every architecture with every training on every data set, once a seed.

    Args:
        config: the whole config, checked against the schema.
        name: of the config file, for messages.

    Raises:
        UserError: a training or a model that there is not.
    """
    for training, entry in config["trainings"].items():
        method = (entry or {}).get("method", training)
        registry.check_name("training", method, f"{name}: trainings.{training}")
    for architecture, entry in config["architectures"].items():
        options = dict(entry)
        model, stem = options.pop("model"), options.pop("stem", "default")
        check_model(model, f"{name}: architectures.{architecture}")
        registry.convert(options, OPTIONS, f"{name}: architectures.{architecture}")
        for training, recipe in config["trainings"].items():
            settings = dict(recipe or {})
            method = settings.pop("method", training)
            for dataset in config["datasets"]:
                for seed in config["seeds"]:
                    classifier = f"{architecture}--{training}--{seed}"
                    spec = {"dataset": dataset, "classifier": classifier, "architecture": architecture}
                    spec |= {"training": training, "seed": seed, "model": model, "stem": stem}
                    spec |= {"model_options": options, "method": method, "options": settings}
                    yield (dataset, classifier), specs.complete("train", spec, f"{name}: trainings.{training}")


def brought(config: Mapping[str, Any], name: str) -> Classifiers:
    """Those trained elsewhere; arguments as for `trained`.

    Raises:
        UserError: a data set, a model or a weights file that there is not.
    """
    for classifier, entry in config["classifiers"].items():
        where = f"{name}: classifiers.{classifier}"
        options = dict(entry)
        dataset = options.pop("dataset")
        if dataset not in config["datasets"]:
            hint = registry.nearest(dataset, config["datasets"])
            raise UserError(f"{where}.dataset: no data set '{dataset}'{hint}")
        given = {field: options.pop(field) for field in specs.FIELDS["brought"] if field in options}
        registry.convert(options, OPTIONS, where)
        given |= {"dataset": dataset, "classifier": classifier}
        given |= {"architecture": given.get("architecture", classifier), "training": given.get("training", "brought")}
        spec = specs.complete("train", given | {"seed": None, "model_options": options}, where)
        check_model(spec["model"], where)
        if not Path(spec["weights"]).is_file():
            raise UserError(f"{where}.weights: no such file: {spec['weights']}")
        yield (dataset, classifier), spec


def augmentations(config: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a measurement compares: the augmentations it names, else those of the config's trainings.

    Args:
        config: the whole config, checked against the schema.
        given: id -> method (default is the id) and options.

    Returns:
        Id, or training, -> method and options.
    """
    if given is not None:
        return {name: {"method": name, **(entry or {})} for name, entry in given.items()}
    found: dict[str, Any] = {}
    for training, entry in config["trainings"].items():
        options = dict(entry or {})
        method = options.pop("method", training)
        if options.get("augmentation"):  # of the images before any training sees them
            found[training] = options["augmentation"]
        elif method in registry.names("augmentation"):  # the training has it within
            own = registry.options("augmentation", method)
            found[training] = {"method": method, **{key: value for key, value in options.items() if key in own}}
    return found
