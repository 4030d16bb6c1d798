"""Compare the results of two runs: what changed, whether that is more than chance, and whether it is a regression."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.compare import common, folders, surroundings
from pipeline.compare.common import Images
from pipeline.compare.numbers import Alone, Number, judged, numbers
from pipeline.compare.surroundings import Absent, Fact, Flag
from pipeline.contracts import UserError

ATTACKS = "perturbation"  # table


class Comparison(NamedTuple):
    """Two runs side by side.

    Attributes:
        before: folder of the first run.
        after: folder of the second run.
        level: of the intervals; 1 minus it is that of the tests.
        tolerance: harm up to which a number that is worse is no regression.
        allow_missing: whether what the second run lacks is no regression.
        numbers: of the classifiers that both have.
        alone: numbers that are defined in one run alone; they are no regression.
        missing: what the second run lacks.
        new: what the first run lacks.
        flags: new doubts about attacks.
        images: data set -> evaluation images.
        facts: what else differs.
    """

    before: Path
    after: Path
    level: float
    tolerance: float
    allow_missing: bool
    numbers: Sequence[Number]
    alone: Sequence[Alone]
    missing: Sequence[Absent]
    new: Sequence[Absent]
    flags: Sequence[Flag]
    images: Mapping[str, Images]
    facts: Sequence[Fact]

    @property
    def regression(self) -> bool:
        """Whether anything is worse, missing or newly in doubt."""
        lost = bool(self.missing) and not self.allow_missing
        return lost or bool(self.flags) or any(number.regression for number in self.numbers)


def compare(
    before: Path,
    after: Path,
    *,
    pairs: Sequence[str] = (),
    only: Sequence[str] = (),
    tolerance: float = 0.0,
    level: float = 0.95,
    allow_missing: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare two folders of results.

    Args:
        before: the reference.
        after: what is compared with it.
        pairs: `old=new` ids of classifiers that were renamed.
        only: patterns of the numbers' names; none: all. New doubts about attacks count if any such number is made from
            attacks; what is missing counts all the same.
        tolerance: harm up to which a number that is worse is no regression: of shares absolute, of others relative.
        level: of the intervals; 1 minus it is that of the tests.
        allow_missing: whether what `after` lacks is no regression.
        seed: of resampling and permutations.

    Raises:
        UserError: a folder has no tables, a table is damaged, the runs have no classifier in common, an id to pair is
            unknown, or no number has such a name.
    """
    new = folders.read(after)
    old = folders.renamed(folders.read(before), new, pairs)
    if not old.classifiers & new.classifiers:
        names = [", ".join(sorted({"/".join(place) for place in folder.classifiers})) for folder in (old, new)]
        raise UserError(
            f"{before} and {after}: no classifier of a data set in common ({names[0]}; {names[1]}); "
            "pair renamed ones with --pair old=new"
        )
    images = common.images(old, new)
    found, alone = numbers(old, new, images, level=level, seed=seed)
    known = {number.column.name for number in found} | {one.column for one in alone}
    for pattern in only:
        if not fnmatch.filter(known, pattern):
            raise UserError(f"--only {pattern}: matches none of the numbers {', '.join(sorted(known))}")
    wanted = {name for name in known if not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)}
    found = [number for number in found if number.column.name in wanted]
    attacked = not only or any(number.column.source == ATTACKS for number in found)
    return Comparison(
        before,
        after,
        level,
        tolerance,
        allow_missing,
        judged(found, level=level, tolerance=tolerance),
        [one for one in alone if one.column in wanted],
        surroundings.absent(old, new),
        surroundings.absent(new, old),
        surroundings.flags(folders.gather(old), folders.gather(new)) if attacked else [],
        images,
        surroundings.facts(old, new),
    )
