"""What the page of a data set's samples shows: pictures, predictions and numbers, ready to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.report import paths
from pipeline.report.outcomes import Outcomes, Threat

NOTHING = "–"
ORDERS = {"l2": "l2", "linf": "linf", "l0": "l0_pixels"}  # norms by which samples are sorted -> their columns


class Cell(NamedTuple):
    """One image under one attack on one classifier.

    Attributes:
        classifier: place among the page's.
        attack: likewise.
        perturbed: address of the picture; empty where the attack left the image as it was.
        difference: likewise.
        found: whether the attack succeeded.
        change: in words: what the image was taken for, before and after.
        size: norm that the attack bounds or minimises, in words; a dash if it did not succeed.
        notes: signs of a failure, in words.
        flagged: whether the attack on this classifier is in doubt as a whole.
        sizes: norm -> size, for those of `ORDERS`; None if the attack did not succeed.
    """

    classifier: int
    attack: int
    perturbed: str
    difference: str
    found: bool
    change: str
    size: str
    notes: Sequence[str]
    flagged: bool
    sizes: Mapping[str, float] | None


class Facts(NamedTuple):
    """What is known of one image and one classifier, in words: `errors` under which corruptions it is misclassified."""

    prediction: str
    right: bool
    numbers: Sequence[str]
    errors: str


@dataclass(frozen=True)
class Sample:
    """One image: its id, the fragment of its address on the page, what its true class is called, pictures, rows."""

    name: str
    fragment: str
    label: str
    clean: str
    scales: Sequence[str]
    cells: Sequence[Sequence[Cell | None]]
    facts: Sequence[Facts | None]

    @property
    def attacked(self) -> list[Cell]:
        """All cells that there are."""
        return [cell for line in self.cells for cell in line if cell is not None]

    @property
    def fooled(self) -> int:
        """How many attacks on classifiers succeeded."""
        return sum(cell.found for cell in self.attacked)

    @property
    def corrupted(self) -> bool:
        """Whether any classifier was shown corrupted versions of it."""
        return any(facts is not None and facts.errors != NOTHING for facts in self.facts)

    @property
    def bytes(self) -> int:
        """Length of the addresses of the pictures."""
        return len(self.clean) + sum(len(cell.perturbed) + len(cell.difference) for cell in self.attacked)


@dataclass(frozen=True)
class Album:
    """All that the page of a data set shows.

    Attributes:
        classifiers: in order.
        attacks: in order.
        headers: of the numbers in `Facts`.
        limits: values that are black and white in the pictures.
        grey: whether differences are shown in colours, as those of grey images are.
        height: of an image, in pixels.
        width: likewise.
        samples: in the gallery's order.
        known: how many samples the gallery has, the ones that were left out too.
        lossy: whether pictures are compressed with loss.
    """

    classifiers: Sequence[Outcomes]
    attacks: Sequence[Threat]
    headers: Sequence[str]
    limits: tuple[float, float]
    grey: bool
    height: int
    width: int
    samples: Sequence[Sample]
    known: int
    lossy: bool


def fragment(sample: str) -> str:
    """What follows # in the address of a sample on its page, and the id of its part there."""
    return f"sample-{paths.safe(sample)}"
