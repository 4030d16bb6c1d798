"""Where the pages of the report lie, below its folder, and how they link to each other."""

from __future__ import annotations

import hashlib
import posixpath
import re

INDEX = "index.html"


def card(dataset: str, classifier: str) -> str:
    """The page of one classifier."""
    return f"classifiers/{safe(dataset)}/{safe(classifier)}.html"


def samples(dataset: str) -> str:
    """The page on which the samples of a data set can be looked at."""
    return f"samples/{safe(dataset)}.html"


def anchor(board: str, column: str) -> str:
    """Id of a number of a leaderboard on its classifier's page."""
    return f"{board}-{safe(column)}"


def link(target: str, page: str) -> str:
    """`target` as it is written in a link of `page`; both below the report's folder."""
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def safe(name: str) -> str:
    """A name that is no more than one part of a path; ids of a config are left as they are."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    if plain == name and name.strip("."):
        return name
    return f"{plain.strip('.')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
