"""DeepFool: minimal perturbations in l2 or linf by repeated linearisation of the classifier."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.attacks.descent import Descent, along, on_pixels, to_boundary
from pipeline.contracts import Count, Natural, NonNegative, UserError
from pipeline.numerics.boundary import crossed, distances, gaps, rivals, steepness
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.gradients import class_gradients

EXTRA = 1e-4  # length that the released code adds to every step


def deepfool(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    steps: Count = 50,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    bisections: Natural = 10,
    norm: Literal["l2", "linf"] = "l2",
    mode: Literal["default", "official"] = "default",
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, algorithm 2 and its extension to lp), batched.

    Each step goes to the nearest of the hyperplanes that the linearised classifier puts between the label and its
    rivals: |f| / |w|_2 along w in l2, |f| / |w|_1 along sign(w) in linf. A sample is done when its image with the
    overshoot leaves its class. Samples that are done leave the batch before gradients are computed.

    Departures of the mode `default` from the paper and its code: iterates stay in the box; once clipping has taken more
    than half of a sample's step, entries that a step would push out of the box are left out of it, without which images
    of black and white pixels creep or fail; the source class is the label; the step is |f| / |w| as in the paper,
    without the code's 1e-4; the result is brought back to the boundary along the segment from the clean image; a class
    leads by more than rounding. A rival is passed over where its hyperplane would not be the nearest even if its
    gradient were twice as long as the longest seen of it on the sample's way, or, if it was not looked at yet, 1.5
    times as long as the longest seen of the others; and a step looks at three rivals at most, the nearest by that
    reckoning. No bound proves this; it was measured, on 288 images each, in both norms, against all rivals at every
    step: on a ResNet-20 for digits and one for CIFAR-10 (JPEG 75, 74 % accurate) 5 to 6 % of the results changed,
    lengths grew by 0.4 to 1.0 % on average, and 0.15 to 0.27 of the backward passes were left. On a CPU a pass takes 64
    images at most, see `descent.WIDTH`. Where the box lies behind the frequency flip, l2 runs there, on the pixels: the
    flip keeps l2 lengths, so steps and result are the same but for the bounds, which are met entry by entry. In linf,
    whose lengths the flip does not keep, each iterate is put back to the nearest point of that box.

    The mode `official` is the released Python code: steps of length d + 1e-4, linearised at x + (1 + overshoot) r, the
    very point where the class is tested, 10 classes that include the predicted one, no box, no way back, and
    x + (1 + overshoot) r of the last step is returned whether it fools or not. What leaves the box counts as a failure
    in the table of norms. Departures: the label stands for the predicted class, which is left when another leads by
    more than rounding; r keeps the dtype of the images; rivals with a zero gradient are passed over. Other releases
    differ: the MATLAB one steps by d, linearises at x + r and makes up to 100 steps; that inside SparseFool steps by
    max(d, 1e-4), linearises at x + r and returns r without the overshoot.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images; `official` knows none.
        steps: largest number of linearisations.
        overshoot: share added to the perturbation to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer. In
            `official` it counts the predicted class.
        bisections: accuracy of the way back: within 2**-bisections of the segment's length beyond the boundary, as
            after so many halvings, where the lead bends one way only along it, and in one or two passes (see `locate`);
            0 returns the image with the overshoot. `official` knows none.
        norm: that is minimised, `l2` or `linf`.
        mode: `default` or `official`.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found, but the last iterate in `official`.

    Raises:
        UserError: `official` with `linf`, which the released code does not know, or with a single candidate.
    """
    if mode == "official":
        if norm != "l2":
            raise UserError(f"mode: official with norm {norm}, expected l2; the default mode takes {norm}")
        if candidates < 2:
            raise UserError("candidates: 1, expected at least 2 in mode official, which counts the predicted class")
        return _released(model, images, labels, steps, overshoot, candidates)
    if box.flipped and norm == "l2":

        def attack(pixel_model: nn.Module, pixels: Tensor, pixel_box: Box) -> Tensor:
            return deepfool(
                model=pixel_model,
                images=pixels,
                labels=labels,
                seeds=seeds,
                box=pixel_box,
                steps=steps,
                overshoot=overshoot,
                candidates=candidates,
                bisections=bisections,
            )

        return on_pixels(attack, model, images, box)
    descent = Descent(model, images, labels, candidates, box, norm)
    found, ends, leads, guesses = descent.walk(descent.active, images[descent.active], steps, overshoot)
    fooled, results = descent.active[found], images.clone()
    results[fooled] = to_boundary(
        model,
        images[fooled],
        ends[found],
        labels[fooled],
        box,
        bisections,
        start=descent.leads[fooled],
        end=leads[found],
        guess=guesses[found],
    )
    return results


def _released(
    model: nn.Module, images: Tensor, labels: Tensor, steps: int, overshoot: float, candidates: int
) -> Tensor:
    """The released Python code's steps, see `deepfool`."""
    points, shift = images.clone(), torch.zeros_like(images)
    with torch.no_grad():
        logits = model(images)
    classes = rivals(logits, labels, candidates - 1)
    active = (~crossed(logits, labels)).nonzero().squeeze(1)
    for _ in range(steps):
        if not len(active):
            break
        source, others = labels[active], classes[active]
        logits, gradients = class_gradients(model, points[active], others, source)
        slopes = steepness(gradients, "l2")
        distance, nearest = distances(gaps(logits, others, source), slopes).min(dim=1)
        valid = distance.isfinite()
        row = torch.arange(len(active), device=active.device)[valid]
        active, nearest = active[valid], nearest[valid]
        shift[active] += along(gradients[row, nearest], slopes[row, nearest], distance[valid] + EXTRA, "l2")
        points[active] = images[active] + (1 + overshoot) * shift[active]
        with torch.no_grad():
            active = active[~crossed(model(points[active]), labels[active])]
    return points
