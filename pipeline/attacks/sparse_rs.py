"""Sparse-RS: random search for a few pixels, without gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, Share, UserError
from pipeline.numerics.boundary import ROUNDING, crossed, gaps, rivals
from pipeline.numerics.box import UNIT, Box

NORM = "l0"
HORIZON = 10_000  # queries of the paper's schedule; it is stretched over those given
# up to which of these queries alpha is divided by what; then by LAST
SCHEDULE = ((0, 1), (50, 2), (200, 4), (500, 5), (1000, 6), (2000, 8), (4000, 10), (6000, 12), (8000, 15))
LAST = 20
BLOCK = 1024  # positions of one sample drawn at a time: few calls of the generator, little memory


def sparse_rs(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    epsilon: Count,
    queries: Count = 1000,
    alpha: Share = 0.3,
    count: Literal["pixels", "entries"] = "pixels",
) -> Tensor:
    """Sparse-RS (Croce et al., AAAI 2022, algorithm 1 for l0), a black-box attack, batched.

    It starts from `epsilon` random pixels with every channel at a random end of the box. Each query gives a share of
    them back to the clean image, and as many others a random colour of that kind; what lowers the margin
    logit[label] - largest other logit is kept. The share falls from `alpha` in the steps of the paper's schedule. A
    sample leaves the batch at its first misclassified iterate.

    Departures from the authors' code: every sample has its own draws, there a batch shares the places of the pixels;
    the margin must fall, and the prediction leave the label, by more than rounding, so that samples do not depend on
    their batch; where `epsilon` leaves fewer pixels free than are to be exchanged, the rest gets new colours in place;
    a budget beyond the image is the whole image. alpha is the 0.3 that the authors give for untargeted attacks (their
    code's default is 0.8). They use 10,000 queries; 1000 keeps a run on a CPU bearable.

    Args:
        model: images to logits; asked without gradients.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64; all draws of a sample come from its own.
        box: of valid images, a finite interval.
        epsilon: pixels that may change; with `count: entries`, entries. A whole number, though the probe of a large
            budget gives it as a float.
        queries: forward passes per sample at most, the first colours' included.
        alpha: share of the pixels exchanged at first.
        count: `pixels`, or `entries` for every channel on its own (the authors' feature space).

    Returns:
        (n, c, h, w) perturbed images within the budget: misclassified, or else the iterate with the lowest margin.

    Raises:
        UserError: flipped or unbounded data, where neither pixels nor the ends of the box have a meaning.
    """
    if box.flipped or not math.isfinite(box.high - box.low):
        raise UserError("sparse_rs: given flipped or unbounded data, expected values in an interval; use pgd")
    if not len(images):
        return images.clone()
    layers = images.shape[1] if count == "pixels" else 1
    clean = images.reshape(len(images), layers, -1)  # (n, layers, places)
    places = clean.shape[2]
    budget = min(int(epsilon), places)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    order = torch.stack([torch.randperm(places, generator=g) for g in generators]).to(images.device)
    # the first `budget` places in a sample's order are those that may differ from the clean image
    results, points, source = clean.clone(), clean, labels
    lowest = images.new_full((len(images),), torch.inf)
    active = torch.arange(len(images), device=images.device)
    for block, moved, swapped in _blocks(queries, budget, places - budget, alpha):
        if not len(active):
            break
        own = [generators[row] for row in active.tolist()]
        out = _distinct(own, block, moved, budget).to(images.device)
        into = budget + _distinct(own, block, swapped, places - budget).to(images.device)
        salt = torch.stack([torch.rand(block, layers, moved, generator=g) < 0.5 for g in own]).to(images.device)
        row = torch.arange(len(active), device=images.device)  # of the block's draws
        for step in range(block):
            leaving, coming = out[row, step], into[row, step]
            freed = order.gather(1, leaving)
            changed = order.gather(1, torch.cat((coming, leaving[:, swapped:]), dim=1))
            freed, changed = (some[:, None].expand(-1, layers, -1) for some in (freed, changed))
            colours = torch.where(salt[row, step], box.high, box.low).to(points)
            trial = points.scatter(2, freed, clean.gather(2, freed)).scatter(2, changed, colours)
            with torch.no_grad():
                logits = model(trial.view(-1, *images.shape[1:]))
            margin = -gaps(logits, rivals(logits, source, 1), source).squeeze(1)
            done = crossed(logits, source)
            slack = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
            better = done | (margin + slack < lowest)  # never for NaN
            points = torch.where(better[:, None, None], trial, points)
            lowest = torch.where(better, margin, lowest)
            exchanged = torch.cat((leaving[:, :swapped], coming), dim=1)
            before = order.gather(1, exchanged)
            order.scatter_(1, exchanged, torch.where(better[:, None], before.roll(swapped, dims=1), before))
            if done.any():
                results[active[done]] = points[done]
                active, row, clean, points, order, lowest, source = (
                    state[~done] for state in (active, row, clean, points, order, lowest, source)
                )
            if not len(active):
                break
    results[active] = points
    return results.view_as(images)


def _blocks(queries: int, budget: int, free: int, alpha: float) -> Iterator[tuple[int, int, int]]:
    """The course of a search: queries of a block, pixels that each gives new colours, how many of these change place.

    The first query colours the whole budget, in place.
    """
    yield 1, budget, 0
    sizes = (max(1, int(_share(query, queries, alpha) * budget)) for query in range(1, queries))
    for size, run in itertools.groupby(sizes):
        left = sum(1 for _ in run)
        while left:
            block = min(left, max(1, BLOCK // size))
            yield block, size, min(size, free)
            left -= block


def _share(query: int, queries: int, alpha: float) -> float:
    """Share of the budget that a query moves."""
    time = query * HORIZON // queries
    return alpha / next((divisor for end, divisor in SCHEDULE if time <= end), LAST)


def _distinct(generators: Sequence[torch.Generator], rows: int, count: int, size: int) -> Tensor:
    """Uniform draws of `count` different numbers below `size`, from each generator, (generators, rows, count) int64.

    Few of many by Floyd's algorithm (Bentley and Floyd, CACM 1987): number i is drawn from the first size - count + i
    + 1, and is the last of them if what was drawn is taken. It asks for no draw per number below `size`, but for
    count^2 comparisons; where those are more, the largest of random keys are as cheap.
    """
    if count**2 > size:
        return torch.stack([torch.rand(rows, size, generator=g).topk(count, dim=1).indices for g in generators])
    draws = torch.stack([torch.rand(rows, count, generator=g) for g in generators])
    chosen = torch.full(draws.shape, -1)
    for index in range(count):
        last = size - count + index
        drawn = (draws[..., index].double() * (last + 1)).long()
        taken = (chosen == drawn[..., None]).any(dim=2)
        chosen[..., index] = torch.where(taken, last, drawn)
    return chosen
