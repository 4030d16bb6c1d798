"""DataTables, with which the page's tables are sorted and filtered, as the package itables ships it: one ES module."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

MARK = "<!-- DataTables -->"  # no id or caption can hold it, as text in templates is escaped
PACKAGE, BUNDLE = "itables", "itables/html/dt_bundle.js"  # under MIT; the licences of its parts stand at its end


def inlined(page: str) -> str:
    """A page with the library at the mark, as `window.DataTable`, so that it needs no other file.

    The bundle's style sheet is left out: the page's own knows light and dark.

    Raises:
        ValueError: the page has not one mark, or the installed bundle is not of the form that can be inlined.
    """
    before, mark, after = page.partition(MARK)
    if not mark or MARK in after:
        raise ValueError(f"expected one {MARK} in the page")
    return f'{before}<script type="module">\n{_module()}\n</script>{after}'


def _module() -> str:
    text = Path(str(metadata.distribution(PACKAGE).locate_file(BUNDLE))).read_text(encoding="utf-8")
    # A page cannot import from its own text, so the module hands its default export on by its name in there.
    name = re.search(r"\bexport\s*\{[^}]*?([\w$]+) as default\b", text)
    if name is None:
        raise ValueError(f"{BUNDLE} of {PACKAGE} {metadata.version(PACKAGE)} has no default export to hand on")
    # In a module both can only stand in texts and patterns; there \x3C means the same, but ends no script element.
    text = re.sub(r"<(?=!--|/script)", r"\\x3C", text, flags=re.IGNORECASE)
    return f"{text}\nwindow.DataTable = {name[1]};"
