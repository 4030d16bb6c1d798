"""Digest of the code that a job uses: comments, docstrings and layout left out, the same under every Python version.

The digest goes into each job's params, so Snakemake re-runs what an edit of the package touches, and nothing else.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import tokenize
from collections.abc import Iterable
from pathlib import Path

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
# From 3.12 on an f-string is several tokens; they are put together again, as they were one before.
FSTRING_START = getattr(tokenize, "FSTRING_START", -1)
FSTRING_END = getattr(tokenize, "FSTRING_END", -1)


def _docstrings(tree: ast.Module) -> set[tuple[int, int]]:
    """Positions (line, column) at which docstrings start."""
    starts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                starts.add((first.lineno, first.col_offset))
    return starts


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    middle = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *middle, lines[end[0] - 1][: end[1]]])


def tokens(source: str) -> list[str]:
    """The meaningful tokens of a source text; indentation as `>` and `<`, ends of statements as newlines."""
    docstrings = _docstrings(ast.parse(source))
    lines = source.splitlines(keepends=True)
    found: list[str] = []
    depth, opened = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == FSTRING_START:
            depth, opened = depth + 1, opened if depth else token.start
        elif token.type == FSTRING_END:
            depth -= 1
            if not depth:
                found.append(_between(lines, opened, token.end))
        elif depth or token.type in LAYOUT or (token.type == tokenize.STRING and token.start in docstrings):
            continue
        elif token.type == tokenize.NEWLINE:
            if found and found[-1] not in ("\n", ">", "<"):  # none is left behind by a docstring
                found.append("\n")
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            found.append(">" if token.type == tokenize.INDENT else "<")
        else:
            found.append(token.string)
    return found


@functools.cache
def _read(path: Path) -> tuple[str, frozenset[tuple[int, str, tuple[str, ...]]]]:
    """Digest of one file, and its imports as (level, module, names)."""
    source = path.read_text(encoding="utf-8")
    imports: set[tuple[int, str, tuple[str, ...]]] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports |= {(0, alias.name, ()) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports.add((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    return hashlib.sha256("\0".join(tokens(source)).encode()).hexdigest(), frozenset(imports)


def _find(root: Path, module: str) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@functools.cache
def _closure(root: Path, module: str) -> frozenset[tuple[str, Path]]:
    """A module and all that it imports below `root`, also inside functions, read from the source text."""
    waiting, seen = [module], {}
    while waiting:
        name = waiting.pop()
        file = _find(root, name)
        if name in seen or file is None:
            continue
        seen[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for level, base, names in _read(file)[1]:
            if level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - level + 1], *([base] if base else [])])
            waiting += [base, *(f"{base}.{imported}" for imported in names)]
    return frozenset(seen.items())


def code_digest(root: Path, modules: Iterable[str]) -> str:
    """Digest over the closures of several modules, 12 hexadecimal digits.

    Args:
        root: folder of the packages; what is not below it (installed libraries) does not count.
        modules: dotted names.
    """
    files: dict[str, Path] = {}
    for module in modules:
        files |= dict(_closure(root, module))
    return hashlib.sha256("".join(name + _read(files[name])[0] for name in sorted(files)).encode()).hexdigest()[:12]
