"""What a measurement looks at: clean, corrupted or attacked images, its own classifier's or those of all."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pipeline import registry
from pipeline.contracts import UserError
from workflow.corruptions import group


def views_of(config: Mapping[str, Any], measurement: str, method: str, name: str) -> list[tuple[str, str]]:
    """(kind, id) of each view that a measurement looks at.

    Args:
        config: the whole config, checked against the schema.
        measurement: id of the measurement.
        method: its method.
        name: of the config file, for messages.

    Raises:
        UserError: a view that there is not, or that the method does not measure on.
    """
    where = f"{name}: measurements.{measurement}.views"
    given = (config["measurements"][measurement] or {}).get("views", "clean")
    sections = {"corruption": config["corruptions"], "attack": config["attacks"]}
    views: list[tuple[str, str]] = []
    for word in [given] if isinstance(given, str) else given:
        if word == "clean":
            views.append(("clean", "clean"))
        elif word in ("corruptions", "attacks"):
            views += [(word[:-1], entry) for entry in sections[word[:-1]]]
        elif members := group(list(config["corruptions"]), word):
            views += [("corruption", entry) for entry in members]
        elif kinds := [kind for kind, section in sections.items() if word in section]:
            views += [(kind, word) for kind in kinds]
        else:
            known = ["clean", "corruptions", "attacks", *sections["corruption"], *sections["attack"]]
            raise UserError(f"{where}: nothing is called '{word}'{registry.nearest(word, known)}")
    if twice := sorted(set(sections["corruption"]) & set(sections["attack"])):
        raise UserError(f"{name}: '{twice[0]}' is both a corruption and an attack; give one another id")
    accepted = registry.constant("measurement", method, "ACCEPTS")
    if odd := [kind for kind, _ in views if kind not in accepted]:
        raise UserError(f"{where}: {method} does not measure on a {odd[0]} view; it takes {', '.join(accepted)}")
    return views


@functools.cache
def attacks_on_all(method: str) -> bool:
    """Whether a method of measurement looks at the attacks on every classifier of a data set.

    Such a method declares `SOURCES = "all"`; the others see the attacks on their own classifier alone.
    """
    try:
        return bool(registry.constant("measurement", method, "SOURCES") == "all")
    except TypeError:  # it declares none
        return False
