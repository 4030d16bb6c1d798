"""SuperDeepFool: DeepFool in alternation with projections on the boundary's normal, for shorter perturbations in l2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.attacks.descent import Descent, in_parts, on_pixels, to_boundary
from pipeline.contracts import Count, Natural, NonNegative
from pipeline.numerics.boundary import foot, lead, rivals
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2

NORM = "l2"
SETTLED = 1e-3  # share by which a round must shorten the perturbation for another one to follow


def superdeepfool(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    steps: Count = 100,
    inner_steps: Count = 100,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    bisections: Natural = 10,
) -> Tensor:
    """SuperDeepFool in l2: rounds of {DeepFool to the boundary; projection on the normal there}, batched.

    Source: Abdollahpourrostam, Abroshan, Moosavi-Dezfooli, "SuperDeepFool: a new fast and accurate minimal adversarial
    attack", NeurIPS 2024, its main variant: DeepFool to the end, one projection. At the shortest perturbation r the
    boundary is orthogonal to r, which DeepFool's end point x' seldom meets. A round therefore replaces the point by
    x0 + <w, x' - x0> w, with w the unit normal at x', and starts the next DeepFool there; a sample is done when the
    projected point has left its class.

    Departures from the paper: the box, as in `deepfool`, whose DeepFool is used with its rule for rivals; and the
    projected point is the nearest valid point of the plane through x' with the normal w, which is the formula's where
    no bound is met. Samples are also done when DeepFool finds no way, or when a round has shortened the perturbation by
    less than 0.1 %. What is brought back to the boundary and returned is the shortest image of another class met on the
    way: before that it is never longer than DeepFool's. The released code adds the projections of all rounds up, has no
    box and ends each DeepFool with 10 bisections; adv-lib's adds each projection to the previous point. Both differ
    from the paper from the second round on. Flipped data: as in `deepfool`.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images.
        steps: largest number of rounds.
        inner_steps: largest number of linearisations of the DeepFool of a round.
        overshoot: share added to the way of each DeepFool.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        bisections: accuracy with which the result is at the end brought back to the boundary along the segment from the
            clean image, as in `deepfool`.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.
    """
    if box.flipped:

        def attack(pixel_model: nn.Module, pixels: Tensor, pixel_box: Box) -> Tensor:
            return superdeepfool(
                model=pixel_model,
                images=pixels,
                labels=labels,
                seeds=seeds,
                box=pixel_box,
                steps=steps,
                inner_steps=inner_steps,
                overshoot=overshoot,
                candidates=candidates,
                bisections=bisections,
            )

        return on_pixels(attack, model, images, box)
    descent = Descent(model, images, labels, candidates, box)
    results, points = images.clone(), images.clone()
    shortest = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
    leads, unknown = torch.full_like(shortest, torch.nan), torch.full_like(shortest, torch.nan)

    def keep(rows: Tensor, reached: Tensor, ahead: Tensor) -> None:
        length = l2(reached - images[rows])
        better = length < shortest[rows]
        kept = rows[better]
        results[kept], shortest[kept], leads[kept] = reached[better], length[better], ahead[better]

    active = descent.active
    for _ in range(steps):
        if not len(active):
            break
        before = shortest[active]
        found, ends, ahead, _ = descent.walk(active, points[active], inner_steps, overshoot)
        active, ends, before = active[found], ends[found], before[found]
        keep(active, ends, ahead[found])
        going = shortest[active] < (1 - SETTLED) * before
        active, ends = active[going], ends[going]
        if not len(active):
            break
        points[active] = _projected(model, images[active], ends, labels[active], box)
        with torch.no_grad():
            (ahead,) = in_parts(lambda x, source: (lead(model(x), source),), points[active], labels[active])
        done = ahead > 0
        keep(active[done], points[active[done]], ahead[done])
        active = active[~done]
    fooled = shortest.isfinite()
    results[fooled] = to_boundary(
        model,
        images[fooled],
        results[fooled],
        labels[fooled],
        box,
        bisections,
        start=descent.leads[fooled],
        end=leads[fooled],
        guess=unknown[fooled],
    )
    return results


def _projected(model: nn.Module, clean: Tensor, ends: Tensor, source: Tensor, box: Box) -> Tensor:
    """Valid points nearest to the clean images on the planes through the ends that are parallel to the boundary."""
    _, gradients = in_parts(
        lambda ends, source: class_gradients(model, ends, lambda logits: rivals(logits, source, 1), source),
        ends,
        source,
    )
    return foot(clean, gradients[:, 0], ends, box.low, box.high)
