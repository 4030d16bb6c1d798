"""What made a file, whether the present code, packages and inputs are still those, and so on upwards."""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pipeline import specs, store
from pipeline.contracts import UserError
from pipeline.selftest import run as selftest

# stage -> folder below the results, and levels of folders from a file up to the results
PLACES = {
    "prepare": ("data", 2),
    "train": ("models", 2),
    "corrupt": ("corruptions", 2),
    "attack": ("attacks", 3),
    "measure": ("measurements", 3),
    "collect": ("tables", 1),
    "selftest": ("selftest", 1),
}
LEVELS = 4  # folders from a page of the report up to that of the results
REPORT = "report"  # its files lie in the results' own folder; their metadata name the tables in place of a stage
BOARD = "leaderboard.parquet"
STORED = (".parquet", ".safetensors")
SILENT = (
    ".csv",
    ".html",
    ".md",
    ".pdf",
    ".png",
    ".rst",
    ".svg",
    ".tex",
)  # files of the report and the self-test without metadata
NOW = {
    "same": "unchanged",
    "remade": "made anew with the same config, with other bytes",
    "other": "another file lies there",
    "damaged": "damaged",
    "missing": "not found",
}


def show(path: Path, *, every: bool = False, as_json: bool = False) -> str:
    """What made a file, in YAML for people or in JSON for programs.

    Args:
        path: of any safetensors or Parquet file that a stage wrote, or of another file of the report, which carries no
            metadata: the leaderboard of the same job then stands in for it.
        every: also the inputs, their inputs and so on, as far as they are found.
        as_json: JSON, with the file's whole metadata; what lies above is a list under `above`.

    Raises:
        UserError: no such file, damaged, or not one that this pipeline wrote.
    """
    record, files = _record(path)
    above: list[dict[str, Any]] = []
    if every:
        seen = {path.resolve()}
        while files:
            file = files.pop(0)
            if file.resolve() not in seen:
                seen.add(file.resolve())
                with contextlib.suppress(UserError):  # no file of a stage's, which the one below says of it already
                    more, further = _record(file)
                    above.append(more)
                    files += further
    if as_json:
        return json.dumps(record | {"above": above} if every else record, indent=2, ensure_ascii=False)
    texts = (yaml.safe_dump(_worded(each), sort_keys=False, allow_unicode=True, width=110) for each in (record, *above))
    return "---\n".join(texts).rstrip("\n")


def _record(path: Path) -> tuple[dict[str, Any], list[Path]]:
    """All that is known of a file, and the files of its inputs that are there and whole."""
    source = path
    if path.is_file() and path.suffix in SILENT:
        source = _stand_in(path)
    elif path.is_file() and path.suffix not in STORED:
        known = ", ".join((*STORED, *SILENT))
        raise UserError(f"{path}: no file with metadata, expected one of {known}; give one out of the results")
    meta = store.read_metadata(source)
    stage = REPORT if "stage" not in meta and "tables" in meta else meta.get("stage")
    spec, versions = meta.get("spec"), meta.get("versions", {})
    inputs = _inputs(meta) if isinstance(stage, str) else None
    if inputs is None or not isinstance(spec, dict | None) or not isinstance(versions, dict):
        raise UserError(f"{path}: its metadata do not say which stage made it from what; delete it and run again")
    root = _root(source, str(stage))
    found = {name: _input(name, wanted, source, str(stage), root) for name, wanted in inputs.items()}
    record = {
        "file": _shown(path, root),
        "results": None if root is None else str(root),
        "metadata_of": None if source == path else _shown(source, root),
        "stage": stage,
        "spec": spec,
        "seed": meta.get("seed", (spec or {}).get("seed")),
        "code": {"recorded": meta.get("code"), "present": _present_code(str(stage), spec)},
        "lineage": meta.get("lineage"),
        "device": meta.get("device"),
        "versions": {name: {"recorded": text, "present": _installed(str(name))} for name, text in versions.items()},
        "inputs": {name: inputs[name] | facts for name, (facts, _) in found.items()},
        "metadata": meta,
    }
    return record, [file for facts, file in found.values() if file is not None and facts["now"] != "damaged"]


def _stand_in(path: Path) -> Path:
    """The file with metadata that the same job wrote."""
    for file in (path.with_suffix(".parquet"), *(folder / BOARD for folder in [*path.resolve().parents][:LEVELS])):
        if file.is_file():
            return file
    raise UserError(
        f"{path}: {path.suffix} files carry no metadata; {BOARD} of the same report does, but lies neither beside it "
        f"nor up to {LEVELS - 1} folders above; give that file"
    )


def _inputs(meta: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Name -> recorded lineage and hash of each input; None where the metadata do not hold that."""
    given = meta.get("inputs", {})
    if "stage" not in meta:  # the report's
        tables = meta.get("tables")
        given = {kind: {"sha256": value} for kind, value in tables.items()} if isinstance(tables, dict) else None
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        return None
    return {name: {"lineage": each.get("lineage"), "sha256": each.get("sha256")} for name, each in given.items()}


def _root(path: Path, stage: str) -> Path | None:
    """The results' folder, if the file lies where the workflow puts it."""
    parents = path.resolve().parents
    folder, levels = PLACES.get(stage, ("", 0))
    if stage == REPORT:  # its leaderboards of single data sets lie deeper
        return next((folder for folder in [*parents][:LEVELS] if (folder / BOARD).is_file()), parents[0])
    return parents[levels] if levels and len(parents) > levels and parents[levels - 1].name == folder else None


def _shown(path: Path, root: Path | None) -> str:
    whole = path.resolve()
    return whole.relative_to(root).as_posix() if root is not None and whole.is_relative_to(root) else str(path)


def _present_code(stage: str, spec: Any) -> str | None:
    """Digest of the present code of such a job; that of a user's own model factory as seen from the working folder."""
    try:
        return selftest.code() if stage == "selftest" else specs.code(stage, spec or {})
    except Exception:  # the spec is what the file says, which may name what there no longer is
        return None


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _input(
    name: str, wanted: Mapping[str, Any], path: Path, stage: str, root: Path | None
) -> tuple[dict[str, Any], Path | None]:
    """Where an input lies and what became of it, and its file if there is one."""
    best: tuple[int, dict[str, Any], Path | None] = (len(NOW), {"file": None, "now": "missing"}, None)
    for file in _candidates(name, path, stage, root):
        try:
            lineage = store.read_metadata(file).get("lineage")
        except UserError:
            now = "damaged"
        else:
            alike = lineage is not None and lineage == wanted["lineage"]
            if root is None and not alike:
                continue
            now = "same" if store.sha256(file) == wanted["sha256"] else "remade" if alike else "other"
        if root is None and now == "damaged":
            continue
        if (rank := list(NOW).index(now)) < best[0]:
            best = (rank, {"file": _shown(file, root), "now": now}, file)
        if now == "same":
            break
    return best[1], best[2]


def _candidates(name: str, path: Path, stage: str, root: Path | None) -> Iterator[Path]:
    """Files that may be an input: where the workflow puts it, or else of a file that was made by hand, beside it."""
    if root is None:
        yield from (file for file in sorted(path.parent.iterdir()) if file.suffix in STORED)
        return
    parts = name.split("/")
    if ".." in parts or "" in parts:  # no name that a stage gives
        return
    parents = [folder.name for folder in path.resolve().parents]
    dataset = parents[PLACES[stage][1] - 2] if stage in PLACES else ""
    own, last = glob.escape(dataset), glob.escape(parts[-1])
    table = glob.escape("/".join(parts[-3:]))  # {data set}/{classifier}/{measurement}, once without the data set
    patterns = {
        "collect": [f"measurements/{table if len(parts) > 2 else f'*/{table}'}.parquet"],
        "selftest": [f"selftest/{last}/table.parquet"],
        REPORT: [f"{'selftest' if name == 'selftest' else 'tables'}/{last}.parquet"],
    }.get(stage)
    if patterns is None and name == "data":
        patterns = [f"data/{own}/{'train' if stage == 'train' else 'evaluation'}.safetensors"]
    elif patterns is None and name == "classifier":
        patterns = [f"models/{own}/{glob.escape(parents[0])}.safetensors"]
    elif patterns is None:  # views/{data set or classifier}/{id}
        attack = glob.escape("/".join(parts[1:]))
        patterns = [f"corruptions/{own}/{last}.safetensors", f"attacks/{own}/{attack}.safetensors"]
    for pattern in patterns:
        yield from (root / file for file in sorted(glob.glob(pattern, root_dir=root)))


def _worded(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record for people: comparisons in words, what is not known left out."""
    words = {name: value for name, value in record.items() if name != "metadata" and value not in (None, {})}
    words["code"] = _compared(record["code"])
    words["versions"] = {name: _compared(pair) for name, pair in record["versions"].items()} or "not recorded"
    words["inputs"] = {
        name: {key: NOW[value] if key == "now" else value for key, value in each.items() if value is not None}
        for name, each in record["inputs"].items()
    } or "none"
    return words


def _compared(pair: Mapping[str, str | None]) -> str:
    recorded, present = pair["recorded"], pair["present"]
    if recorded is None:
        return "not recorded"
    return f"{recorded}, the same now" if recorded == present else f"{recorded}, now {present or 'not there'}"
