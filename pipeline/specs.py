"""What each stage is told: its spec, checked and completed, the same by hand and by the workflow.

A complete spec holds every option with its value, so it says alone what a job does, and a changed default re-runs it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pipeline import registry
from pipeline.codedigest import code_digest
from pipeline.contracts import Count, Natural, Share, UserError, digest
from pipeline.registry import REQUIRED, ROOT, Option

# what every training takes beside its own options: (file, function, what the stage passes)
COMMON = (
    (ROOT / "training" / "loop.py", "fit", frozenset({"step", "train", "validation", "seed", "setting"})),
    (ROOT / "training" / "step.py", "make_step", frozenset({"classifier", "method", "space", "augment"})),
)

OPTIONS = Option(Mapping[str, Any], {})
SEED = Option(Natural, 0)
SHARD = Option(Annotated[Mapping[Literal["index", "of"], Count], "such as {index: 1, of: 4}"] | None, None)
NAME = Option(str, "by-hand")

_MODEL = {
    "dataset": NAME,
    "classifier": NAME,
    "architecture": NAME,
    "training": NAME,
    "seed": Option(Natural | None, 0),
    "model": Option(str, REQUIRED),
    "model_options": OPTIONS,
    "stem": Option(Literal["default", "small"], "default"),
}
FIELDS: Mapping[str, Mapping[str, Option]] = {
    "prepare": {
        "dataset": NAME,
        "source": Option(str, REQUIRED),
        "options": OPTIONS,
        "frequency": Option(
            Literal["flip"]
            | Annotated[Mapping[Literal["low_pass", "high_pass"], Count], "such as {low_pass: 16} or {high_pass: 16}"]
            | None,
            None,
        ),
        "split": Option(Literal["train", "evaluation"], REQUIRED),
        "seed": SEED,
        "test_share": Option(Share, 0.2),
        "validation": Option(Share, 0.1),
        "train_size": Option(Count | None, None),
        "evaluation": Option(Count | None, None),
        "loading": Option(Literal["auto", "memory", "files"], "auto"),
    },
    "train": _MODEL | {"method": Option(str, REQUIRED), "options": OPTIONS},
    "brought": _MODEL
    | {
        "weights": Option(str, REQUIRED),
        "key": Option(str | None, None),
        "prefix": Option(str, ""),
        "mean": Option(Sequence[float], REQUIRED),
        "std": Option(Sequence[float], REQUIRED),
    },
    "corrupt": {"corruption": NAME, "method": Option(str, REQUIRED), "options": OPTIONS, "seed": SEED},
    "attack": {"attack": NAME, "method": Option(str, REQUIRED), "options": OPTIONS, "seed": SEED, "shard": SHARD},
    "measure": {
        "measurement": NAME,
        "method": Option(str, REQUIRED),
        "options": OPTIONS,
        "seed": SEED,
        "clean": Option(bool, False),
        "augmentations": OPTIONS,
        "shard": SHARD,
    },
    "download": {"archive": Option(str, REQUIRED), "part": Option(str, REQUIRED)},
    "collect": {"kind": Option(str, REQUIRED)},
}
KINDS = {
    "prepare": ("source", "source"),
    "train": ("training", "method"),
    "corrupt": ("corruption", "method"),
    "attack": ("attack", "method"),
    "measure": ("measurement", "method"),
}
UNUSED_BY_SPLIT = {"train": ("evaluation",), "evaluation": ("validation", "train_size", "loading")}


def training_options(method: str) -> dict[str, Option]:
    """Options of a training: its own, then those of the training loop."""
    return registry.options("training", method) | common_options()


def common_options() -> dict[str, Option]:
    """Options of the training loop, which every training takes."""
    return {name: option for part in COMMON for name, option in registry.signature(*part).items()}


def complete(stage: str, given: Mapping[str, Any], where: str = "--spec") -> dict[str, Any]:
    """Check a spec and fill in every default. Complete specs pass unchanged.

    Args:
        stage: name of the stage; a `train` spec with `weights` is that of a brought classifier.
        given: what the user or the workflow says.
        where: config path for messages.

    Raises:
        UserError: see `registry.bind`.
    """
    form = "brought" if stage == "train" and "weights" in given else stage
    spec = registry.bind_options(FIELDS[form], given, where, stage)
    if form in KINDS:
        kind, field = KINDS[form]
        registry.check_name(kind, spec[field], where)
        known = training_options(spec[field]) if kind == "training" else registry.options(kind, spec[field])
        spec["options"] = registry.bind_options(known, spec["options"], where, spec[field])
        if kind == "training" and spec["options"]["augmentation"] is not None:
            spec["options"]["augmentation"] = _augmentation(spec["options"]["augmentation"], f"{where}.augmentation")
    if form == "measure":
        spec["augmentations"] = {
            name: _augmentation(entry, f"{where}.augmentations.{name}") for name, entry in spec["augmentations"].items()
        }
    if "shard" in spec:
        _check_shard(form, spec, where)
    # What the split does not read stays out, so that a change of it re-runs nothing.
    for field in UNUSED_BY_SPLIT.get(spec.get("split", ""), ()):
        del spec[field]
    return spec


def _check_shard(stage: str, spec: dict[str, Any], where: str) -> None:
    """Leave out a shard that is none, and refuse one that there is not, or of a method that looks across samples."""
    if spec["shard"] is None:
        del spec["shard"]
        return
    index, of = (spec["shard"].get(key, 0) for key in ("index", "of"))
    if not 1 <= index <= of:
        raise UserError(f"{where}.shard: given {spec['shard']}, expected index and of, index from 1 to of")
    if stage != "measure":
        return
    if independent(spec["method"]) is None:
        raise UserError(f"{where}: given {of} shards, but {spec['method']} looks across samples; leave shards out here")
    for option, value in _constant(spec["method"], "INDEPENDENT_IF", {}).items():
        if spec["options"][option] != value:
            given = f"{option} {spec['options'][option]}"
            raise UserError(f"{where}: given {of} shards, but {given} looks across samples; only {value} may be split")


@functools.cache
def independent(method: str) -> tuple[str, ...] | None:
    """Whether the rows of a measurement's samples do not depend on the other samples, so that shards may measure them.

    Such a method declares `INDEPENDENT`: the columns by which its rows come in groups, each in the order of the
    samples; with no columns, all rows are in that order. Every sample has a row in every group. A method with
    `samples` takes the first ones. `INDEPENDENT_IF` names options that must have a certain value for it.

    Returns:
        These columns; None if the method does not say so.
    """
    columns = _constant(method, "INDEPENDENT", None)
    return None if columns is None else tuple(columns)


def _constant(method: str, name: str, default: Any) -> Any:
    try:
        return registry.constant("measurement", method, name)
    except TypeError:  # it declares none
        return default


def _augmentation(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    options = dict(given)
    method = options.pop("method", None)
    if method is None:
        known = ", ".join(registry.names("augmentation"))
        raise UserError(f"{where}: given {dict(given)}, expected method: one of {known}, with its options beside it")
    return {"method": method, **registry.bind("augmentation", method, options, where)}


@functools.cache
def _digest(root: Path, *modules: str) -> str:
    """Thousands of jobs of one method run the same code."""
    return code_digest(root, modules)


def code(stage: str, spec: Mapping[str, Any]) -> str:
    """Digest of the code that a job runs: its stage, its method, and what they import from the package.

    A model factory of the user's counts if it lies below the working folder; for `report` its templates and baselines
    count.
    """
    modules = [f"pipeline.stages.{stage}"]
    kind, field = KINDS.get(stage, ("", ""))
    if field in spec:
        modules.append(f"pipeline.{registry.KINDS[kind].package}.{spec[field]}")
    augmentations = [*spec.get("augmentations", {}).values(), spec.get("options", {}).get("augmentation")]
    modules += [f"pipeline.{registry.KINDS['augmentation'].package}.{each['method']}" for each in augmentations if each]
    result = _digest(ROOT.parent, *modules)
    if stage == "train" and ":" in spec["model"]:
        result += _digest(Path.cwd(), spec["model"].partition(":")[0])
    if stage == "report":
        read = sorted([*(ROOT / "report" / "templates").glob("*.j2"), *(ROOT / "report" / "baselines").glob("*.json")])
        result += digest("".join(file.read_text(encoding="utf-8") for file in read))
    return result
