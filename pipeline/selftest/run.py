"""Do the flags work? Sound and broken classifiers go through the real stages, and only the broken may be flagged."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import registry, specs, store
from pipeline.codedigest import code_digest
from pipeline.contracts import Column, UserError

NETS = "pipeline.selftest.nets"
IMAGES = 150  # that are attacked
RECIPE = {"epochs": 8, "batch_size": 64, "learning_rate": 0.1}
ROBUST = {"norm": "linf", "epsilon": 0.1, "steps": 3}
# id -> (what it is, width of the network, method of the training and its own options)
SOUND: Mapping[str, tuple[str, int, str, Mapping[str, Any]]] = {
    "plain": ("none", 8, "standard", {}),
    "wide": ("none, wider network", 24, "standard", {}),
    "adversarial": ("adversarial training", 8, "adversarial", ROBUST),
}
# factory -> what it is; all have the weights of `plain`
BROKEN = {
    "quantised": "quantised input",
    "straight_through": "quantised input, gradient passed straight through",
    "saturated": "logits of low temperature",
    "softmax": "softmax output",
    "noisy": "random noise layer",
    "killed": "layer without a gradient",
    "reversed_gradient": "layer that reverses the gradient",
    "train_mode": "batch normalisation in train mode",
}
ATTACK = {"attack": "pgd", "method": "pgd", "options": {"norm": "linf", "epsilon": 0.1, "steps": 20}}
SCHEMA = {
    "defence": Column("string", "what stands between the attack and the network"),
    "broken": Column("bool", "whether it only hides the gradients"),
    "flags": Column("string", "reasons to doubt the attack, as the leaderboard words them; null if there is none"),
    "verdict": Column("string", "right if the broken are flagged and the others are not, else wrong"),
}


# what runs by name: the stages, and their methods by kind
STAGES = ("prepare", "train", "attack", "measure")
METHODS = {
    "source": ("digits",),
    "training": ("standard", "adversarial"),
    "attack": ("pgd",),
    "measurement": ("perturbation",),
}


class Row(NamedTuple):
    """A defence, whether it is broken, and the reasons to doubt the attack on it."""

    defence: str
    broken: bool
    flags: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether it is flagged if and only if it is broken."""
        return self.broken == bool(self.flags)

    @property
    def verdict(self) -> str:
        """`right` or `wrong`."""
        return "right" if self.right else "wrong"


def modules() -> list[str]:
    """Modules that the self-test runs, those that it names in words included; what they import is not listed."""
    named = [f"pipeline.{registry.KINDS[kind].package}.{name}" for kind, names in METHODS.items() for name in names]
    return ["pipeline.selftest.run", NETS, *(f"pipeline.stages.{stage}" for stage in STAGES), *named]


def code() -> str:
    """Digest of the code that the self-test runs."""
    return code_digest(registry.ROOT.parent, modules())


def selftest(out: Path | None = None, expected: str | None = None) -> list[Row]:
    """Train on the digits that ship inside scikit-learn, attack, measure, and see who is flagged; always on the CPU.

    Args:
        out: folder that keeps all files, with the rows as `selftest.parquet` (columns as in `SCHEMA`) and
            `selftest.md`; None: nothing is kept. The report shows that table as it stands.
        expected: digest of the code; None: any.

    Returns:
        One row per classifier, the sound ones first.

    Raises:
        UserError: the code has another digest.
    """
    digest = code()
    if expected not in (None, digest):
        raise UserError("selftest: the code changed while the workflow was running; start it again")
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return _rows(Path(folder))
    rows = _rows(out)
    columns = {
        "defence": [row.defence for row in rows],
        "broken": [row.broken for row in rows],
        "flags": ["; ".join(row.flags) or None for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    inputs = {path.parent.name: path for path in sorted(out.glob("*/table.parquet"))}
    spec = {"sound": list(SOUND), "broken": list(BROKEN)}
    store.write_table(out / "selftest.parquet", columns, SCHEMA, store.provenance("selftest", spec, digest, inputs))
    (out / "selftest.md").write_text(markdown(rows) + "\n", encoding="utf-8")
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| defence | hides gradients | flags | verdict |", "| --- | --- | --- | --- |"]
    for row in rows:
        hides = "yes" if row.broken else "no"
        lines.append(f"| {row.defence} | {hides} | {'; '.join(row.flags) or 'none'} | {row.verdict} |")
    return "\n".join(lines)


def _rows(folder: Path) -> list[Row]:
    data = {split: folder / f"{split}.safetensors" for split in ("train", "evaluation")}
    for split, out in data.items():
        size = {"evaluation": IMAGES} if split == "evaluation" else {}
        _stage(
            "prepare", {"dataset": "digits", "source": "digits", "split": split, "test_share": 0.25, **size}, out=out
        )
    rows = []
    for name, (what, width, method, own) in SOUND.items():
        trained = {"model": f"{NETS}:plain", "model_options": {"width": width}, "method": method}
        flags = _flags(folder / name, name, {**trained, "options": {**RECIPE, **own}}, data)
        rows.append(Row(what, False, flags))
    weights = folder / "plain" / "model.safetensors"
    recipe = store.read_metadata(weights)["recipe"]
    for name, what in BROKEN.items():
        brought = {"model": f"{NETS}:{name}", "weights": str(weights), "prefix": "net.", "seed": None}
        flags = _flags(folder / name, name, {**brought, "mean": recipe["mean"], "std": recipe["std"]}, data)
        rows.append(Row(what, True, flags))
    return rows


def _flags(folder: Path, name: str, spec: Mapping[str, Any], data: Mapping[str, Path]) -> tuple[str, ...]:
    """Train or take in a classifier, attack it, measure, and read what the report would say of the attack."""
    import pandas as pd

    from pipeline.report import outcomes

    model, attacked, table = (folder / file for file in ("model.safetensors", "pgd.safetensors", "table.parquet"))
    names = {"dataset": "digits", "classifier": name, "architecture": name, "training": name}
    _stage("train", {**names, **spec}, data=data["train"], out=model, device="cpu")
    given: dict[str, Any] = {"classifier": model, "data": data["evaluation"], "device": "cpu"}
    _stage("attack", ATTACK, out=attacked, **given)
    measured = {"measurement": "perturbation", "method": "perturbation"}
    _stage("measure", measured, out=table, views=[attacked], **given)
    (found,) = outcomes.gather({"perturbation": pd.read_parquet(table)})
    return tuple(reason for reasons in found.doubts.values() for reason in reasons)


def _stage(stage: str, spec: Mapping[str, Any], **given: Any) -> None:
    whole = specs.complete(stage, spec)
    run = getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)
    run(spec=whole, code=specs.code(stage, whole), **given)
