"""Command line: a sub-command a stage, and a few more. A mistake of the user ends with one line and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline import reference, registry, specs
from pipeline.contracts import UserError
from pipeline.outputlock import alone

STAGES = {
    "prepare": "read a source and write one split of it",
    "train": "train a classifier, or take in a brought one",
    "download": "download and check a part of a published archive of corrupted images",
    "corrupt": "corrupt the evaluation images at five severities",
    "attack": "perturb the evaluation images against a classifier",
    "measure": "measure a classifier on clean, corrupted or attacked images",
    "collect": "concatenate the tables of one kind",
    "report": "make figures, leaderboard, claims and page from the tables",
}
BY_INPUT = "only `-`: standard input names them, `lineage path` a line"
KIND_OF_STAGE = {
    "prepare": "source",
    "train": "training",
    "corrupt": "corruption",
    "attack": "attack",
    "measure": "measurement",
}


def _mapping(text: str) -> dict[str, Any]:
    """JSON or YAML mapping on the command line, or `@file`."""
    try:
        value = yaml.safe_load(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
    except (OSError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(f"not readable as JSON or YAML: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a mapping such as '{{method: pgd}}', given {text}")
    return value


def _size(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, given {text}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, given {text}")
    return int(text)


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0, given {text}")
    return value


def _level(text: str) -> float:
    value = _minutes(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0.5 to below 1, given {text}")
    return value


def parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line. Only the help of a stage lists its methods, for which all their sources have to be read."""
    shown = set(arguments) if {"-h", "--help"} & set(arguments) else set()
    top = argparse.ArgumentParser(prog="python -m pipeline", description="Boundary Atlas, stage by stage.")
    commands = top.add_subparsers(dest="stage", required=True, metavar="stage")
    for name, help_text in STAGES.items():
        command = commands.add_parser(
            name,
            help=help_text,
            description=help_text.capitalize() + ".",
            epilog=reference.plain(KIND_OF_STAGE[name]) if name in shown & set(KIND_OF_STAGE) else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name != "report":
            spec_help = "what to do: JSON or YAML mapping, or @file; " + _fields(name)
            command.add_argument("--spec", type=_mapping, required=True, help=spec_help)
        command.add_argument("--code", help="digest of the code that is expected to run; another one is refused")
        _paths(command, name)
    methods = commands.add_parser("methods", help="print tables of the methods and their options, in Markdown")
    chosen = methods.add_mutually_exclusive_group()
    chosen.add_argument("--kind", choices=registry.KINDS, help="of one kind alone; without it of all kinds")
    chosen.add_argument("--update", type=Path, help="write the tables of all kinds into this page, between its marks")
    provenance = commands.add_parser(
        "provenance", help="say what made a file, and whether code, packages and inputs are still those"
    )
    provenance.add_argument("file", type=Path, help="safetensors or Parquet file of any stage, or a file of the report")
    provenance.add_argument("--all", dest="every", action="store_true", help="also its inputs, theirs, and so on")
    provenance.add_argument("--json", dest="as_json", action="store_true", help="for programs, with all the metadata")
    compare = commands.add_parser(
        "compare",
        help="say what changed between two folders of results, and whether for the worse",
        description="Compares two folders of results; exit code 1 if the second is worse, or lacks something.",
    )
    compare.add_argument("before", type=Path, help="folder of results, the reference")
    compare.add_argument("after", type=Path, help="folder of results that is compared with it")
    pair_help = "ids of a renamed classifier; may be given several times"
    compare.add_argument("--pair", dest="pairs", action="append", default=[], metavar="OLD=NEW", help=pair_help)
    only_help = "only numbers of this name, such as 'clean_*'; may be given several times"
    compare.add_argument("--only", action="append", default=[], metavar="PATTERN", help=only_help)
    tolerance_help = "loss that is none: absolute for shares (0.01: one point), relative for others (default 0)"
    compare.add_argument("--tolerance", type=_minutes, default=0.0, help=tolerance_help)
    compare.add_argument("--level", type=_level, default=0.95, help="of intervals and tests (default 0.95)")
    missing_help = "what the second one lacks is no regression"
    compare.add_argument("--allow-missing", action="store_true", help=missing_help)
    compare.add_argument("--markdown", type=Path, metavar="FILE", help="write the comparison as Markdown, too")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON, too")
    selftest = commands.add_parser(
        "selftest",
        help="check that classifiers which hide their gradients are flagged, and sound ones are not",
        description="Trains, breaks and attacks small classifiers; exit code 1 if a flag is missing or too many.",
    )
    selftest.add_argument("--out", type=Path, help="folder that keeps the files; without it none is kept")
    selftest.add_argument("--code", help="digest of the code that is expected to run; another one is refused")
    return top


def _fields(stage: str) -> str:
    required = [key for key, field in specs.FIELDS[stage].items() if field.default is registry.REQUIRED]
    text = f"needs {', '.join(required)}"
    if others := [key for key in specs.FIELDS[stage] if key not in required]:
        text += f"; takes {', '.join(others)}"
    if stage == "train":
        own = (key for key in specs.FIELDS["brought"] if key not in specs.FIELDS["train"])
        text += f"; a brought classifier has {', '.join(own)} in place of method and options"
    return text


def _paths(command: argparse.ArgumentParser, stage: str) -> None:
    add = command.add_argument
    if stage in ("attack", "measure"):
        add("--classifier", type=Path, required=True, help="safetensors file that train wrote")
    if stage in ("train", "corrupt", "attack", "measure"):
        split = "train" if stage == "train" else "evaluation"
        add("--data", type=Path, required=True, help=f"safetensors file that prepare wrote, split {split}")
        add("--device", default="auto", help="auto (default), cpu, cuda or cuda:0")
    if stage in ("corrupt", "attack", "measure"):
        batch_help = "images at a time, at most; without it 256, on a GPU what fits; does not change the result"
        add("--batch-size", type=_size, help=batch_help)
    if stage == "corrupt":
        add("--downloaded", type=Path, help="folder that download wrote, for a corruption out of a published archive")
    if stage == "train":
        add("--history", type=Path, help="Parquet file for the metrics of each epoch")
        add("--workers", type=_natural, default=0, help="processes that decode images which stay in their files")
        add("--checkpoint-minutes", type=_minutes, default=5.0, help="least time between two checkpoints (default 5)")
    if stage == "measure":
        add(
            "--views",
            type=Path,
            nargs="*",
            default=[],
            help="files of corrupt or attack to measure on, beside the clean images if the spec has clean: true",
        )
    if stage == "collect":
        add("--tables", type=Path, nargs="+", required=True, help=f"Parquet files of measure, of one kind; {BY_INPUT}")
        add("--lineages", nargs="*", default=[], help="what the config says of each table; a mismatch is refused")
    if stage == "report":
        add(
            "--tables",
            type=Path,
            nargs="+",
            required=True,
            help="Parquet files of collect or selftest; the name is the kind",
        )
        data_help = "files that prepare wrote, which name the classes; without them classes are numbers"
        add("--data", type=Path, nargs="*", default=[], help=data_help)
        add("--out", type=Path, required=True, help="the folder for report/, figures/, leaderboards/ and the rest")
        add("--spec", type=_mapping, default=None, help="the config, JSON or YAML or @file, shown on the page")
        add("--title", default="Boundary Atlas", help="heading of the page")
        add("--seed", type=int, default=0, help="seed of the bootstrap")
        add("--benchmarks", type=Path, help="folder of Snakemake's benchmark files; the page shows seconds of them")
    else:
        add("--out", type=Path, required=True, help="the file to write")


def _run(stage: str, given: dict[str, Any]) -> None:
    expected = given.pop("code")
    if stage == "report":
        given["tables"] = {path.stem: path for path in given["tables"]}
        outputs = [given["out"] / "leaderboard.parquet"]
    else:
        given["spec"] = specs.complete(stage, given["spec"])
        outputs = [given["out"], *([given["history"]] if given.get("history") else [])]
    with alone(*outputs):
        # digested here, as it may have changed while this job waited
        code = specs.code(stage, {} if stage == "report" else given["spec"])
        if expected not in (None, code):
            raise UserError(f"{stage}: the code changed while the workflow was running; start it again")
        if stage != "report":
            given["code"] = code
        getattr(importlib.import_module(f"pipeline.stages.{stage}"), stage)(**given)


def _show_methods(kind: str | None, update: Path | None) -> None:
    if update is None:
        print(reference.markdown(kind))
        return
    try:
        update.write_text(reference.renewed(update.read_text(encoding="utf-8"), str(update)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{update}: cannot be read or written ({error.strerror})") from None


def _show_provenance(file: Path, every: bool, as_json: bool) -> None:
    from pipeline.provenance import show

    print(show(file, every=every, as_json=as_json))


def _selftest(out: Path | None, code: str | None) -> int:
    from pipeline.selftest.run import markdown, selftest

    rows = selftest(out, code)
    print(markdown(rows))
    return 0 if all(row.right for row in rows) else 1


def _compare(markdown: Path | None, json: Path | None, **given: Any) -> int:
    from pipeline.compare import comparing, showing

    found = comparing.compare(given.pop("before"), given.pop("after"), **given)
    for path, written in ((markdown, showing.markdown), (json, showing.to_json)):
        if path is not None:
            try:
                path.write_text(written(found), encoding="utf-8")
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    print(showing.text(found))
    return int(found.regression)


def main(arguments: list[str] | None = None) -> int:
    """Run a stage or another command; 0 on success, 1 if the self-test or a comparison fails, 2 on a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    given = vars(parser(arguments).parse_args(arguments))
    stage = given.pop("stage")
    try:
        if stage == "methods":
            _show_methods(**given)
        elif stage == "selftest":
            return _selftest(**given)
        elif stage == "compare":
            return _compare(**given)
        elif stage == "provenance":
            _show_provenance(**given)
        else:
            _run(stage, given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of what is printed, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
