"""Cheap attacks that a good one must not lose against, and the other signs of misleading gradients, as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attacks.ascent import move, restrict
from pipeline.measurements.inference import nullable
from pipeline.numerics import randomness, reliability
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.gradients import loss_gradient
from pipeline.numerics.norms import length, per_sample

QUERIES = 50  # of the random search, per sample
WINDOWS = (0.5, 0.02)  # share of the image that a proposal of the random search changes: the first, the last
NORMS = ("l1", "l2", "linf")  # in which the cheap attacks keep to a budget


def signs(
    model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, probed: Tensor, batch_size: int, box: Box
) -> dict[str, list[Any]]:
    """What `numerics.reliability` finds about a classifier, as columns with one entry per sample.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        labels: (n,) int64.
        seeds: (n,) int64.
        probed: (k,) int64, rows of the samples that the costlier probes take; the others have nulls there.
        batch_size: images at a time.
        box: of valid images.
    """
    count = len(labels)
    unsteady = reliability.random_forward(model, images)
    columns: dict[str, list[Any]] = {
        "zero_gradient": reliability.zero_gradients(model, images, labels, batch_size).tolist(),
        "random_forward": [unsteady] * count,
        "softmax_output": [reliability.softmax_output(model, images)] * count,
        "batch_dependent": [None if unsteady else reliability.batch_dependent(model, images)] * count,
        "gradient_mismatch": [None] * count,
        "gradient_cosine": [None] * count,
    }
    if not unsteady and len(probed):
        given = images[probed], labels[probed]
        mismatches = reliability.gradient_mismatches(model, *given, seeds[probed.to(seeds.device)], box)
        columns["gradient_mismatch"] = spread(mismatches.tolist(), probed, count)
        cosines = reliability.precision_cosines(model, *given)
        columns["gradient_cosine"] = spread(nullable(cosines, ~cosines.isnan()), probed, count)
    return columns


def spread(values: list[Any], rows: Tensor, count: int) -> list[Any]:
    """A column of `count` entries with the values in their rows and null elsewhere."""
    column: list[Any] = [None] * count
    for row, value in zip(rows.tolist(), values, strict=True):
        column[row] = value
    return column


def single_step(
    *, model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float, box: Box = UNIT
) -> Tensor:
    """Whether one step of length epsilon up the cross-entropy's gradient fools the classifier, (n,) bool.

    The fast gradient method of Goodfellow et al. (ICLR 2015), with the step of `attacks.ascent.move`.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        norm: `l1`, `l2` or `linf`.
        epsilon: budget.
        box: of valid images.
    """
    found = []
    for start in range(0, len(images), reliability.CHUNK):
        clean, source = images[start : start + reliability.CHUNK], labels[start : start + reliability.CHUNK]
        gradient = loss_gradient(model, clean, source)[2]
        points = move(clean, clean, gradient, norm=norm, epsilon=epsilon, step_size=epsilon, box=box)
        with torch.no_grad():
            found.append(crossed(model(points), source))
    return torch.cat(found)


@torch.no_grad()
def random_search(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    norm: str,
    epsilon: float,
    box: Box = UNIT,
    queries: int = QUERIES,
) -> Tensor:
    """Whether a short random search without gradients fools the classifier, (n,) bool.

    In the manner of Square Attack (Andriushchenko et al., ECCV 2020): a proposal gives a random window of the pattern
    one random sign per channel, and stays if the label's lead over the others falls; windows shrink as the search goes
    on. Departures: for `linf` the start of vertical stripes is not evaluated before the first window; for `l1` and
    `l2` the same patterns are scaled to the budget, from none at the start.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64; all draws of a sample come from its own.
        norm: `l1`, `l2` or `linf`.
        epsilon: budget.
        box: of valid images.
        queries: forward passes per sample.
    """
    n, channels, height, width = images.shape
    draws = randomness.uniform(seeds, (channels * width + queries * (2 + channels),)).to(images)
    stripes = (draws[:, : channels * width].view(n, channels, 1, width) - 0.5).sign()
    pattern = stripes.expand_as(images).clone() if norm == "linf" else torch.zeros_like(images)
    lowest, fooled = images.new_full((n,), math.inf), torch.zeros_like(labels, dtype=torch.bool)
    active = torch.arange(n, device=images.device)
    proposals = draws[:, channels * width :].view(n, queries, 2 + channels)
    for query, (rows, columns) in enumerate(_windows(queries, height, width)):
        if not len(active):
            break
        drawn = proposals[active, query]
        window = (_span(drawn[:, 0], rows, height)[:, :, None] & _span(drawn[:, 1], columns, width)[:, None])[:, None]
        candidate = torch.where(window, (drawn[:, 2:] - 0.5).sign()[:, :, None, None], pattern[active])
        clean, source = images[active], labels[active]
        shift = epsilon * candidate / per_sample(length(candidate, norm), candidate)
        logits = model(restrict(clean, clean + shift, norm=norm, epsilon=epsilon, box=box))
        rest = logits.scatter(1, source[:, None], -math.inf).amax(dim=1)
        lead = logits.gather(1, source[:, None]).squeeze(1) - rest
        done, better = crossed(logits, source), lead < lowest[active]
        pattern[active[better]] = candidate[better]
        lowest[active[better]] = lead[better]
        fooled[active[done]] = True
        active = active[~done]
    return fooled


def _windows(queries: int, height: int, width: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of each proposal's window."""
    for query in range(queries):
        first, last = WINDOWS
        share = math.sqrt(first + (last - first) * query / max(queries - 1, 1))
        yield max(1, round(share * height)), max(1, round(share * width))


def _span(draw: Tensor, size: int, whole: int) -> Tensor:
    """Which of `whole` places lie in a run of `size` that starts where a draw (n,) on [0, 1) says, (n, whole) bool."""
    start = (draw * (whole - size + 1)).floor().clamp(max=whole - size)[:, None]
    place = torch.arange(whole, device=draw.device)
    return (place >= start) & (place < start + size)
