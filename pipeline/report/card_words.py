"""What a classifier's page says first: how good it is, what it is weakest against, and what is to be doubted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.report import statistics
from pipeline.report.corruption_measures import Errors
from pipeline.report.leaderboard import SHARE
from pipeline.report.outcomes import Outcomes
from pipeline.report.rendering import interval
from pipeline.report.statistics import Interval

# How a reason for doubt begins -> why it is one; sentences that follow it.
WHY = {
    "random forward pass": "The answer to one image changes between passes, so that a gradient of one pass misleads.",
    "outputs are probabilities": "The gradients behind a softmax vanish where it is confident.",
    "gradient is zero": "There an attack by gradients has no direction to go.",
    "with the whole box as budget": "With every pixel free, a working attack fools nearly all images.",
    "predictions depend on the batch": "Other images of a batch have a say in the class of one.",
    "gradient does not say": "There the gradient leads an attack astray.",
    "float32 loses the gradient": "There rounding leaves an attack without a direction.",
    "it misses what a single step fools": "An attack that is weaker than a single step was misled or stopped too soon.",
    "it misses what a random search fools": "Gradients that lead to less than chance finds are no guide.",
    "it finds nothing on": "Every image has a smallest perturbation: where none is found, the attack failed.",
}


def headline(outcomes: Outcomes, rank: str, errors: Sequence[Errors]) -> Iterator[str]:
    """Sentences: rank, accuracy with and without attacks, and what is worst.

    Args:
        outcomes: of the classifier.
        rank: on the overall leaderboard, in words; "" if it has none.
        errors: of the classifier under corruptions, one per suite.
    """
    if rank:
        yield rank
    if outcomes.clean is not None:
        yield f"Clean accuracy {_percent(statistics.share(outcomes.clean['correct']))} of {len(outcomes.clean)} images."
    if outcomes.worst_case is not None:
        under = ", ".join(str(threat) for threat in outcomes.fixed)
        yield f"Worst-case robust accuracy {_percent(statistics.share(outcomes.worst_case))}, under {under}."
    yield from _weakest(outcomes)
    for found in errors:
        if found.corruptions:
            worst = min(found.corruptions, key=lambda name: (found.corruptions[name].value, name))
            of = f"Of {len(found.corruptions)} corruptions ({found.suite}), " if len(found.corruptions) > 1 else ""
            mean = _percent(found.corruptions[worst])
            yield f"{of}{worst} harms it most: accuracy {mean}, mean over severities."


def _weakest(outcomes: Outcomes) -> Iterator[str]:
    shares = {threat: statistics.share(outcomes.robust(threat)) for threat in outcomes.fixed}
    if len(shares) > 1:
        worst = min(shares, key=lambda threat: (shares[threat].value, threat))
        survive = _percent(shares[worst])
        yield f"Of {len(shares)} attacks with a budget, {worst} harms it most: {survive} of the images survive."
    elif outcomes.minimal and not shares:
        yield "No attack with a budget was measured; how small the perturbations are stands below."


def _percent(value: Interval) -> str:
    number, bracket, limits = interval(value, SHARE).partition(" [")
    return f"{number}\u00a0%{bracket}{limits}"


def flags(outcomes: Outcomes) -> list[tuple[str, list[str]]]:
    """(attack, reasons to doubt what it found, in sentences), for the attacks of which there are any."""
    return [
        (str(threat), [_sentence(reason) for reason in reasons])
        for threat, reasons in outcomes.doubts.items()
        if reasons
    ]


def _sentence(reason: str) -> str:
    why = next((text for start, text in WHY.items() if reason.startswith(start)), "")
    return f"{reason[:1].upper()}{reason[1:]}. {why}".strip()
