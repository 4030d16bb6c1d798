"""From the long tables to what each classifier did, sample by sample; here nulls get their meaning."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import _accuracy_rows, statistics

# norm -> (column of the perturbation table, symbol, unit)
NORMS = {
    "l0": ("l0_pixels", "ℓ₀", "pixels"),
    "l0_pixels": ("l0_pixels", "ℓ₀", "pixels"),
    "l0_entries": ("l0_entries", "ℓ₀", "entries"),
    "l1": ("l1", "ℓ₁", "pixel range = 1"),
    "l2": ("l2", "ℓ₂", "pixel range = 1"),
    "linf": ("linf", "ℓ∞", "pixel range = 1"),
}
KINDS = {
    "accuracy": "accuracy on clean and corrupted images, calibration",
    "perturbation": "adversarial perturbations",
    "dct_margin": "margins per frequency block",
    "gallery": "example images",
    "transfer": "transfer of perturbations between classifiers",
    "subspace_margin": "margins in given and random subspaces",
    "invariance": "invariance",
    "curvature": "curvature",
    "shared_directions": "shared directions",
    "regions": "regions",
    "path_examples": "examples of paths inside regions",
    "loops": "loops",
    "slices": "slices",
    "detection": "detection",
    "augmentation_distance": "distances of augmentations to corruptions",
}
BROUGHT = "brought"
REFERENCE = "standard"
KEYS, THREAT = ["dataset", "classifier"], ["attack", "norm", "epsilon"]
ZERO_GRADIENTS = 0.01  # share of images above which an attack is flagged
LARGE_EPSILON = 0.95  # success with the whole box as budget below which it is
FAILURES = 0.05  # share of images without a minimal perturbation above which it is, by more than chance
RIVALS = 0.01  # share of images that a cheap attack alone fools above which it is, by more than chance
MISMATCHES = 0.05  # share of images whose gradient is wrong above which it is, by more than chance
COSINE = 0.5  # with the gradient in float64 below which a gradient is lost


@dataclass(frozen=True, order=True)
class Threat:
    """An attack, the norm it bounds or minimises, and its budget (inf: it minimises the norm)."""

    attack: str
    norm: str
    epsilon: float = math.inf

    @property
    def minimal(self) -> bool:
        """Whether the attack seeks the smallest perturbation instead of keeping to a budget."""
        return math.isinf(self.epsilon)

    @property
    def symbol(self) -> str:
        """Such as ℓ₂."""
        return NORMS[self.norm][1]

    def __str__(self) -> str:
        return f"{self.attack} ({self.symbol}" + (")" if self.minimal else f" ≤ {self.epsilon:.3g})")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one classifier did. Every series and frame is indexed by sample.

    Attributes:
        dataset: id of the data set.
        classifier: id of the classifier.
        architecture: id of the architecture.
        training: id of the training.
        seed: training seed, None for a brought classifier.
        clean: columns `correct` and `confidence`; None if not measured.
        corrupted: sample x (corruption, severity), correct = 1.0; NaN where a sample lacks the view.
        confidence: likewise, of the prediction; NaN where it is not known.
        suites: corruption -> its suite.
        families: corruption -> its family, where that is known.
        norms: per threat the norm of the perturbation found: +inf if none, 0 if misclassified without one.
        margins: per measurement of diagonal blocks alone, sample x block, of correctly classified samples; +inf if not
            converged.
        frequency: per measurement, block -> first row (and column) of the block.
        doubts: per threat, reasons to doubt what the attack found.
        attacks: rows of the perturbation table, with all its norms; not indexed by sample. Empty if not measured.
        transfers: rows of the transfer table, of images made on any classifier; likewise.
    """

    dataset: str
    classifier: str
    architecture: str
    training: str
    seed: int | None
    clean: pd.DataFrame | None = None
    corrupted: pd.DataFrame = field(default_factory=pd.DataFrame)
    confidence: pd.DataFrame = field(default_factory=pd.DataFrame)
    suites: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    norms: Mapping[Threat, pd.Series[float]] = field(default_factory=dict)
    margins: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    frequency: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    doubts: Mapping[Threat, Sequence[str]] = field(default_factory=dict)
    attacks: pd.DataFrame = field(default_factory=pd.DataFrame)
    transfers: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def style(self) -> tuple[str, str]:
        """What colour and marker stand for: (training, architecture). Each brought classifier is a training apart."""
        return (self.classifier if self.training == BROUGHT else self.training, self.architecture)

    @property
    def fixed(self) -> list[Threat]:
        """Threats with a budget."""
        return [threat for threat in self.norms if not threat.minimal]

    @property
    def minimal(self) -> list[Threat]:
        """Threats that minimise the norm."""
        return [threat for threat in self.norms if threat.minimal]

    def robust(self, threat: Threat) -> pd.Series[bool]:
        """Whether a sample survived a threat with a budget."""
        return self.norms[threat] == math.inf

    def complete(self, suite: str) -> pd.DataFrame:
        """The part of `corrupted` that is of a suite, of the samples that every view of it has."""
        return self.corrupted[self.views(suite)].dropna()

    def views(self, suite: str) -> list[tuple[str, int]]:
        """(corruption, severity) of what was measured of a suite."""
        views: Any = self.corrupted.columns.to_list()
        return [(name, severity) for name, severity in views if self.suites[name] == suite]

    @functools.cached_property
    def worst_case(self) -> pd.Series[bool] | None:
        """Whether a sample survived all threats with a budget (samples that all of them have); None without any."""
        if not self.fixed:
            return None
        frame = pd.concat([self.robust(threat) for threat in self.fixed], axis=1, join="inner")
        return pd.Series(statistics.survivors(list(frame.to_numpy().T)), index=frame.index, dtype=bool)

    def best(self, norm: str, minimal_only: bool = False) -> pd.Series[float] | None:
        """Smallest perturbation in a norm that any attack in it found; None if none was measured."""
        threats = [t for t in self.norms if t.norm == norm and (t.minimal or not minimal_only)]
        if not threats:
            return None
        frame = pd.concat([self.norms[threat] for threat in threats], axis=1, join="inner")
        budgets = [None if threat.minimal else threat.epsilon for threat in threats]
        return pd.Series(statistics.smallest(list(frame.to_numpy().T), budgets), index=frame.index, dtype=float)

    def beaten(self, threat: Threat) -> pd.Series[Any]:
        """Where an attack with a budget stayed below what a threat that minimises the same norm found."""
        rivals = [t for t in self.fixed if t.norm == threat.norm]
        if not rivals:
            return pd.Series(np.zeros(0, dtype=bool))
        frame = pd.concat([self.norms[threat], *(self.norms[t] for t in rivals)], axis=1, join="inner").to_numpy()
        below = [(frame[:, i] < math.inf) & (t.epsilon < frame[:, 0]) for i, t in enumerate(rivals, start=1)]
        return pd.Series(np.any(below, axis=0), dtype=bool)


def gather(tables: Mapping[str, pd.DataFrame]) -> list[Outcomes]:
    """Outcomes of all classifiers of any table, by data set and architecture; `standard` first, brought ones last.

    Raises:
        ValueError: a perturbation has a norm that is not in `NORMS`.
    """
    groups: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for kind, table in tables.items():
        for (dataset, classifier), rows in table.groupby(KEYS):
            groups.setdefault((str(dataset), str(classifier)), {})[kind] = rows

    def order(o: Outcomes) -> tuple[object, ...]:
        return o.dataset, o.training == BROUGHT, o.architecture, o.training != REFERENCE, o.classifier

    return sorted((_outcomes(parts) for parts in groups.values()), key=order)


def _outcomes(parts: Mapping[str, pd.DataFrame]) -> Outcomes:
    first: dict[Any, Any] = next(iter(parts.values())).iloc[0].to_dict()
    accuracy = parts.get("accuracy", pd.DataFrame(columns=_accuracy_rows.COLUMNS))
    suites, families = _accuracy_rows.suites(accuracy)
    corrupted, confidence = _accuracy_rows.corrupted(accuracy)
    margins, frequency = _margins(parts["dct_margin"]) if "dct_margin" in parts else ({}, {})
    return Outcomes(
        dataset=str(first["dataset"]),
        classifier=str(first["classifier"]),
        architecture=str(first["architecture"]),
        training=str(first["training"]),
        seed=None if pd.isna(first["seed"]) else int(first["seed"]),
        clean=_accuracy_rows.clean(accuracy),
        corrupted=corrupted,
        confidence=confidence,
        suites=suites,
        families=families,
        norms=_norms(parts["perturbation"]) if "perturbation" in parts else {},
        margins=margins,
        frequency=frequency,
        doubts=_doubts(parts["perturbation"]) if "perturbation" in parts else {},
        attacks=_once(parts.get("perturbation"), *THREAT),
        transfers=_once(parts.get("transfer"), "attack", "source"),
    )


def _norms(rows: pd.DataFrame) -> dict[Threat, pd.Series[float]]:
    norms: dict[Threat, pd.Series[float]] = {}
    for (attack, norm, epsilon), part in _by_threat(rows):
        threat = Threat(attack, norm, epsilon)
        if threat.norm not in NORMS:
            raise ValueError(f"perturbation table: {attack} has the norm '{norm}', expected one of {', '.join(NORMS)}")
        part = part.set_index("sample").sort_index()
        found = part[NORMS[threat.norm][0]].astype(float)
        norms[threat] = found.where(part["converged"].astype(bool), math.inf)
    return dict(sorted(norms.items()))


def _doubts(rows: pd.DataFrame) -> dict[Threat, list[str]]:
    """Signs that an attack was misled: what `pipeline.numerics.reliability` and the attack stage recorded."""
    doubts: dict[Threat, list[str]] = {}
    for (attack, norm, epsilon), part in _by_threat(rows):
        reasons = ["random forward pass"] * bool(part["random_forward"].any())
        reasons += ["outputs are probabilities"] * bool(part["softmax_output"].any())
        if (share := float(part["zero_gradient"].astype(float).mean())) > ZERO_GRADIENTS:
            reasons.append(f"gradient is zero on {100 * share:.0f} % of images")
        blind = not bool((part["backward_passes"].astype(float) > 0).any())  # noise, queries: no gradient to mislead
        if not blind and (success := float(part["large_epsilon_success"].astype(float).min())) < LARGE_EPSILON:
            reasons.append(f"with the whole box as budget it succeeds on {100 * success:.0f} % alone")
        reasons += ["predictions depend on the batch"] * bool((_known(part, "batch_dependent") > 0).any())
        step, search = _known(part, "single_step_success"), _known(part, "random_search_success")
        mismatch, cosine = _known(part, "gradient_mismatch"), _known(part, "gradient_cosine")
        failed = ~part["converged"].astype(bool)
        for signs, limit, text in (  # each of the samples probed
            (mismatch > 0, MISMATCHES, "gradient does not say how logits change on"),
            (cosine < COSINE, MISMATCHES, "float32 loses the gradient on"),
            (failed[step.index] & (step > 0), RIVALS, "it misses what a single step fools,"),
            (failed[search.index] & (search > 0), RIVALS, "it misses what a random search fools,"),
            (failed if math.isinf(epsilon) else failed[:0], FAILURES, "it finds nothing on"),
        ):
            found = statistics.share(signs)
            if found.low > limit:
                reasons.append(f"{text} {100 * found.value:.0f} % of images")
        if "library_warnings" in part:
            reasons += [f"its library warns: {text}" for text in part["library_warnings"].dropna().unique()]
        doubts[Threat(attack, norm, epsilon)] = reasons
    return doubts


def _known(part: pd.DataFrame, column: str) -> pd.Series[float]:
    """A column where it is known, true as 1; nothing for a table without it."""
    return part[column].dropna().astype(float) if column in part else pd.Series(dtype=float)


def _by_threat(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str, float], pd.DataFrame]]:
    for (attack, norm, epsilon), part in _once(rows, *THREAT).groupby(THREAT):
        yield (str(attack), str(norm), float(str(epsilon))), part


def _once(rows: pd.DataFrame | None, *names: str) -> pd.DataFrame:
    """Rows, of which several measurements may have the same, once each; no epsilon is an infinite one."""
    if rows is None:
        return pd.DataFrame()
    rows = rows.drop_duplicates(["sample", *names])
    return rows.assign(epsilon=rows["epsilon"].astype(float).fillna(math.inf))


def _margins(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, int]]]:
    margins, frequency = {}, {}
    for name, part in rows.groupby("measurement"):
        if "column" in part and (part["column"].notna() & (part["column"] != part["frequency"])).any():
            continue  # a map over rows and columns is no curve along frequencies
        starts = part.drop_duplicates("block").sort_values("block")
        frequency[str(name)] = dict(zip(starts["block"].tolist(), starts["frequency"].tolist(), strict=True))
        part = part[part["correct"].astype(bool)]
        distance = part["margin"].astype(float).where(part["converged"].astype(bool), math.inf)
        margins[str(name)] = part.assign(margin=distance).pivot_table(index="sample", columns="block", values="margin")
    return margins, frequency


def shared(classifiers: Sequence[Outcomes], dataset: str) -> list[Outcomes]:
    """The classifiers of one data set, in order."""
    return [outcomes for outcomes in classifiers if outcomes.dataset == dataset]


def datasets(classifiers: Sequence[Outcomes]) -> list[str]:
    """Ids of the data sets, in order, once each."""
    return list(dict.fromkeys(outcomes.dataset for outcomes in classifiers))


def suites(classifiers: Sequence[Outcomes]) -> list[str]:
    """Ids of the suites of corruptions that any of them was measured on, in order."""
    return sorted({suite for outcomes in classifiers for suite in outcomes.suites.values()})
