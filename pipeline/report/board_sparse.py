"""The leaderboard of attacks on few pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.report import board_attacks, board_ranks, sparse, statistics
from pipeline.report import board_measures as shared
from pipeline.report.board_columns import NUMBER, SHARE, Board, Column, Measure, slug
from pipeline.report.board_ranks import Criterion
from pipeline.report.board_rows import Tables
from pipeline.report.board_table import assemble
from pipeline.report.outcomes import Outcomes, Threat
from pipeline.report.sparse import Sparse
from pipeline.report.statistics import Interval

NAME, TITLE = "sparse", "Few pixels"
TEXT_OF_BOARD = (
    "How few pixels it takes to fool each classifier: by each attack on the images that are classified correctly, and "
    "by the best attack for each image. A failure counts as infinitely many pixels. Ranks are by which of two "
    "classifiers needs more pixels on more images, whichever attack found them."
)
BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # pixels
SHOWN = 3  # of them on a data set
PLAIN = 0.05  # share of images up to which a budget says nothing; above 1 minus it, likewise


def build(classifiers: Sequence[Outcomes], seed: int, tables: Tables) -> Board | None:
    """Leaderboard of attacks in an l0 norm; None without any.

    Args:
        classifiers: of all data sets.
        seed: of the bootstrap.
        tables: kind -> rows.
    """
    found = sparse.results(classifiers, seed)
    if not found:
        return None
    attacked = [o for o in classifiers if o in {result.outcomes for result in found}]
    norms = [norm for norm in board_attacks.minimised(attacked) if norm.startswith("l0")]
    measures = [
        *(board_attacks.median_smallest(attacked, norm, seed) for norm in norms),
        *_within(attacked, seed),
        *_by_attack(found),
    ]
    criteria = {}
    for dataset, members in shared.by_dataset(attacked):
        own = [norm for norm in norms if norm in board_attacks.minimised(members)]
        if own:
            sizes = {o.classifier: board_attacks.smallest(o, own[0]) for o in members}
            known = {name: values for name, values in sizes.items() if values is not None}
            criteria[dataset] = Criterion(board_attacks.smallest_column(own[0]), known, board_ranks.of_medians)
    threats = {result.threat for result in found}
    board = assemble(attacked, measures, board_ranks.ranks(criteria, seed), tables=tables, flags=threats)
    return board._replace(name=NAME, title=TITLE, text=TEXT_OF_BOARD)


def _within(classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """Share of images that are fooled within a few budgets, those that tell classifiers of a data set apart."""
    chosen: dict[int, list[Outcomes]] = {}
    for _, members in shared.by_dataset(classifiers):
        sizes = [values for values in map(_right, members) if len(values)]
        shares = {k: [float(np.mean(values <= k)) for values in sizes] for k in BUDGETS}
        telling = [k for k, own in shares.items() if any(PLAIN < share < 1 - PLAIN for share in own)]
        for k in telling[:SHOWN]:
            chosen.setdefault(k, []).extend(members)
    for k, own in sorted(chosen.items()):
        words = "1 pixel" if k == 1 else f"{k} pixels"
        column = Column(
            slug("fooled_within", str(k)),
            f"Fooled within {words} [%]",
            SHARE,
            f"share of the images classified correctly that any attack fools by changing at most {words}; lower is "
            "better",
            "perturbation",
            "clean_prediction == label",
        )

        def estimate(outcomes: Outcomes, _: int, k: int = k) -> Interval:
            return statistics.share(_right(outcomes) <= k)

        yield shared.each(column, own, seed, estimate)


def _right(outcomes: Outcomes) -> statistics.Array:
    """Fewest pixels found, of the images that are classified correctly."""
    values = board_attacks.smallest(outcomes, "l0_pixels")
    rows = outcomes.attacks
    right = set(rows.loc[rows["clean_prediction"] == rows["label"], "sample"])
    return np.zeros(0) if values is None else values[values.index.isin(right)].to_numpy(dtype=float)


def _by_attack(found: Sequence[Sparse]) -> Iterator[Measure]:
    """What the page's table of attacks on few pixels says of each."""
    threats = sorted({result.threat for result in found})
    images = "of the images classified correctly that all attacks on few pixels attacked"
    for threat in threats:
        several = sum(own.attack == threat.attack for own in threats) > 1
        name = f"{threat.attack} {threat.norm} {threat.epsilon:g}" if several else threat.attack
        label = str(threat) if several or not threat.minimal else threat.attack

        def measure(
            part: str,
            header: str,
            kind: str,
            text: str,
            pick: Callable[[Sparse], Interval],
            threat: Threat = threat,
            name: str = name,
            several: bool = several,
        ) -> Measure:
            query = f"{board_attacks.of_threat(threat, several)} and clean_prediction == label"
            column = Column(slug(part, name), header, kind, text, "perturbation", query)
            own = {(r.outcomes.dataset, r.outcomes.classifier): pick(r) for r in found if r.threat == threat}
            return Measure(column, shared.known(own))

        infinite = "a failure counts as infinite; higher is better"
        share = f"share {images} that {label} perturbs with success"
        yield measure("fooled", f"Fooled, {label} [%]", SHARE, f"{share}; lower is better", lambda r: r.success)
        for what, pick in (("pixels", lambda r: r.pixels), ("entries", lambda r: r.entries)):
            text = f"median number of {what} that {label} changes, {images}; {infinite}"
            yield measure(what, f"Median {what}, {label} [{what}]", NUMBER, text, pick)
        rounded = "as without rounding, of images rounded to 8 bits a channel"
        header = f"Fooled in 8 bits, {label} [%]"
        yield measure("fooled_8bit", header, SHARE, f"{rounded}; lower is better", lambda r: r.success_8bit)
        header = f"Median pixels in 8 bits, {label} [pixels]"
        yield measure("pixels_8bit", header, NUMBER, f"{rounded}; {infinite}", lambda r: r.pixels_8bit)
