"""The code digest changes with the meaning of the code that a job uses, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import codedigest

SOURCE = '''"""Docstring."""
import pkg.b

def f(x, *, y=1):
    """Docstring of f."""
    # a comment
    return f"{x:>{y}}" + 'text'  # another
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Docstring."""\n', ""),
        ('    """Docstring of f."""\n', ""),
        ("    # a comment\n", "\n\n"),
        ("  # another", ""),
        ("x, *, y=1", "x,\n      *, y=1"),
        ("    return", "        return"),
    ],
)
def test_layout_and_comments_do_not_count(old: str, new: str) -> None:
    changed = SOURCE.replace(old, new)
    if old == "    return":  # deeper indentation of the whole block
        changed = SOURCE.replace("    ", "        ")
    assert changed != SOURCE
    assert codedigest.tokens(changed) == codedigest.tokens(SOURCE)


@pytest.mark.parametrize(("old", "new"), [("y=1", "y=2"), ("'text'", "'test'"), (":>", ":<"), ("def f", "def g")])
def test_meaning_counts(old: str, new: str) -> None:
    assert codedigest.tokens(SOURCE.replace(old, new)) != codedigest.tokens(SOURCE)


def test_dedent_counts() -> None:
    inside, outside = "if a:\n    b\n    c\n", "if a:\n    b\nc\n"
    assert codedigest.tokens(inside) != codedigest.tokens(outside)


def test_fstring_is_one_token_of_its_own_text() -> None:
    """Python 3.12 and later split f-strings; the digest must not."""
    assert 'f"{x:>{y}}"' in codedigest.tokens(SOURCE)
    nested = "a = f'{b[\"c\"]} {d!r}' + f'''x\n{e}'''\n"
    assert codedigest.tokens(nested)[2:5:2] == ["f'{b[\"c\"]} {d!r}'", "f'''x\n{e}'''"]


def test_digest_follows_imports_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    files = {
        "a": "def f():\n    from pkg.b import g\n    return g\n",
        "b": "from pkg import c\ng = c.x\n",
        "c": "x = 1\n",
    }
    for name, text in {**files, "d": "y = 1\n"}.items():
        (package / f"{name}.py").write_text(text)

    def digest() -> str:
        codedigest._read.cache_clear()
        codedigest._closure.cache_clear()
        return codedigest.code_digest(tmp_path, ["pkg.a"])

    first = digest()
    (package / "d.py").write_text("y = 2\n")
    assert digest() == first
    (package / "c.py").write_text("x = 2\n")
    assert digest() != first
