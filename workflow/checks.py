"""Check a config before any job starts: its form against the schema, and its models' names against the source texts."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from pipeline import registry
from pipeline.contracts import UserError, canonical, digest

BASELINES = Path(registry.__file__).parent / "report" / "baselines"
SCHEMA = Path(__file__).parent / "schemas" / "config.schema.yaml"


def check_schema(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check a config against the schema and fill in the defaults of its top level.

    Raises:
        UserError: one line with the path, what was given and what was expected.
    """
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    errors = sorted(
        Draft202012Validator(schema).iter_errors(dict(config)), key=lambda error: list(map(str, error.path))
    )
    if errors:
        raise UserError(_explain(errors[0], name))
    defaults = {key: field["default"] for key, field in schema["properties"].items() if "default" in field}
    return {**defaults, **config}


def check_baseline(given: str | None, classifiers: Sequence[str], name: str) -> None:
    """Raise UserError unless a baseline is none, a classifier or one that is shipped."""
    known = [*sorted(set(classifiers)), *sorted(file.stem for file in BASELINES.glob("*.json"))]
    if given is not None and given not in known:
        hint = registry.nearest(given, known)
        raise UserError(f"{name}: baseline: no classifier or baseline '{given}'{hint}; there are {', '.join(known)}")


def fingerprint(config: Mapping[str, Any], package: Path) -> str:
    """Digest of a whole config and of every letter of a package's code, comments included; found in no time."""
    files = sorted(package.rglob("*.py"))
    code = [(str(file.relative_to(package)), file.read_text(encoding="utf-8")) for file in files]
    return digest(canonical([config, code]))


def _explain(error: ValidationError, name: str) -> str:
    path = ".".join(map(str, error.path))
    where = f"{name}: {path}" if path else name
    instance: Any = error.instance
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        odd = next(key for key in instance if key not in known)
        return f"{where}: no field '{odd}'{registry.nearest(odd, known)}; there are {', '.join(known)}"
    if error.validator == "required":
        return f"{where}: {error.message.replace(' is a required property', ' is missing')}"
    if "propertyNames" in error.schema_path:
        return f"{where}: '{instance}' cannot be an id; an id is letters and digits, joined by single - or _"
    expected = schema.get("description", error.message)
    return f"{where}: given {instance!r}, expected {expected[0].lower()}{expected[1:]}"


@functools.cache
def timm_models() -> frozenset[str]:
    """Names of timm's architectures, read from its source text: importing timm takes seconds."""
    found = importlib.util.find_spec("timm")
    folder = Path(found.origin or "").parent / "models" if found else Path()
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py")))
    return frozenset(re.findall(r"^@register_model\s*\ndef (\w+)", text, flags=re.MULTILINE))


@functools.cache
def own_models() -> frozenset[str]:
    """Names of the package's own networks, read from the source text: importing them would import torch."""
    body = ast.parse((registry.ROOT / "models" / "nets.py").read_text(encoding="utf-8")).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))


def check_model(model: str, where: str) -> None:
    """Raise UserError unless `model` is the package's own, timm's, or written as a factory, `module:function`."""
    if ":" in model or model in own_models():
        return
    base = model.partition(".")[0]
    if base not in timm_models():
        hint = registry.nearest(base, timm_models() | own_models())
        raise UserError(f"{where}: timm has no model '{model}'{hint}; a factory of your own is written module:function")
