"""The leaderboard of attacks: accuracy within budgets, smallest perturbations, and images made on other classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from pipeline.report import board_attacks, board_ranks, statistics, transfer
from pipeline.report import board_measures as shared
from pipeline.report.board_columns import NUMBER, SHARE, WORST, Board, Column, Key, Measure, slug
from pipeline.report.board_ranks import Criterion
from pipeline.report.board_rows import Tables
from pipeline.report.board_table import assemble
from pipeline.report.outcomes import NORMS, Outcomes, Threat
from pipeline.report.statistics import Array, Interval

NAME, TITLE = "adversarial", "Adversarial perturbations"
TEXT_OF_BOARD = (
    "What attacks do to each classifier: the share of images on which attacks with a budget fail, and the norms of the "
    "smallest perturbations found, of each attack and of all together. Attacks bound the true robustness from above, "
    "so a weak or misled attack flatters a classifier: mind the flags. Ranks are by the worst-case robust accuracy, "
    "or, where no attack has a budget, by which of two classifiers takes the larger perturbation on more images."
)


def build(classifiers: Sequence[Outcomes], seed: int, tables: Tables) -> Board | None:
    """Leaderboard of attacks in l1, l2 and linf, and of those with a budget in any norm; None without any.

    Args:
        classifiers: of all data sets.
        seed: of the bootstrap.
        tables: kind -> rows.
    """
    threats = {t for o in classifiers for t in o.norms if not (_few(t) and t.minimal)}
    if not threats:
        return None
    own = list(board_attacks.by_attack(classifiers, threats, seed))
    norms = [norm for norm in board_attacks.minimised(classifiers) if not norm.startswith("l0")]
    measures = [
        board_attacks.worst_case(classifiers, seed),
        *_unions(classifiers, seed),
        *(measure for measure in own if measure.column.kind == SHARE),
        *(board_attacks.median_smallest(classifiers, norm, seed) for norm in norms),
        *(measure for measure in own if measure.column.kind == NUMBER),
        *_transfer(classifiers, seed),
    ]
    criteria = {dataset: _criterion(members, norms) for dataset, members in shared.by_dataset(classifiers)}
    ranks = board_ranks.ranks(criteria, seed)
    board = assemble(classifiers, measures, ranks, tables=tables, flags=threats)
    return board._replace(name=NAME, title=TITLE, text=TEXT_OF_BOARD)


def _few(threat: Threat) -> bool:
    """Whether an attack is on few pixels."""
    return NORMS[threat.norm][0].startswith("l0")


def _unions(classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """Accuracy under all attacks of one norm and budget, where there are several."""
    budgets = sorted({(t.norm, t.epsilon) for o in classifiers for t in o.fixed})
    for norm, epsilon in budgets:
        among = {t for o in classifiers for t in o.fixed if (t.norm, t.epsilon) == (norm, epsilon)}
        if len(among) < 2 or len(budgets) == 1:  # it is the attack's own, or the worst case of all
            continue
        symbol = NORMS[norm][1]
        names = ", ".join(sorted(threat.attack for threat in among))
        column = Column(
            slug("worst_case", norm, f"{epsilon:.4g}"),
            f"Worst case, {symbol} ≤ {epsilon:.3g} [%]",
            SHARE,
            f"share of images that survive all attacks with {symbol} at most {epsilon:.4g}: {names}",
            "perturbation",
            f"norm == {norm!r} and epsilon == {epsilon!r}",
        )

        def estimate(outcomes: Outcomes, _: int, among: set[Threat] = among) -> Interval | None:
            robust = [outcomes.robust(threat) for threat in outcomes.fixed if threat in among]
            return statistics.share(pd.concat(robust, axis=1, join="inner").all(axis=1)) if robust else None

        yield shared.each(column, classifiers, seed, estimate)


def _transfer(classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """Success of images that were made on the other classifiers of the data set, by attack."""
    values: dict[str, dict[Key, Interval]] = {}
    for dataset, members in shared.by_dataset(classifiers):
        rows = transfer.outcomes_of(members)
        if rows.empty:
            continue
        rows = rows[(rows["source"] != rows["classifier"]) & rows["right"] & rows["success"]]
        for (attack, classifier), part in rows.groupby(["attack", "classifier"]):
            # The images that one image became on several classifiers stay together.
            counts = part.groupby("sample")["fooled"].agg(["size", "sum"]).to_numpy(dtype=float)
            stream = statistics.stream(seed, dataset, str(classifier), NAME, "transfer", str(attack))
            found = statistics.bootstrap(counts, _ratio, seed=stream)
            values.setdefault(str(attack), {})[dataset, str(classifier)] = found
    for attack, own in sorted(values.items()):
        column = Column(
            slug("transfer", attack),
            f"Fooled by others' images, {attack} [%]",
            SHARE,
            f"of the images with which {attack} succeeded on another classifier, and of which both classify the clean "
            "image correctly: share that this classifier misclassifies, over all other classifiers measured; lower is "
            "better",
            "transfer",
            f"attack == {attack!r} and source != classifier and clean_prediction == label",
        )
        others = [("transfer", f"attack == {attack!r} and source == classifier")]
        others.append(("perturbation", f"attack == {attack!r}"))
        yield Measure(column, shared.known(own), beside={dataset: others for dataset, _ in own})


def _ratio(counts: Array) -> Array:
    """Share of images that fool, from how many there are and how many do: (..., n, 2) -> (...)."""
    sums = counts.sum(axis=-2)
    return sums[..., 1] / sums[..., 0]  # type: ignore[no-any-return]


def _criterion(members: Sequence[Outcomes], norms: Sequence[str]) -> Criterion:
    """Of one data set."""
    worst = {o.classifier: o.worst_case for o in members if o.worst_case is not None}
    own = [norm for norm in norms if norm in board_attacks.minimised(members)]
    if worst or not own:
        return Criterion(WORST, worst, board_ranks.of_outcomes)
    sizes = {o.classifier: board_attacks.smallest(o, own[0]) for o in members}
    known = {name: values for name, values in sizes.items() if values is not None}
    return Criterion(board_attacks.smallest_column(own[0]), known, board_ranks.of_medians)
