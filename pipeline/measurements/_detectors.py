"""Statistics that are to tell perturbed images from natural ones: curvature, and those it is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.measurements.inference import logits_of
from pipeline.numerics.box import Box
from pipeline.numerics.directional import second_derivatives
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.hessian import hessian_products
from pipeline.numerics.norms import unit

PIXELS = 2  # side of the median's window


def curvatures(
    model: nn.Module,
    points: Tensor,
    source: Tensor,
    classes: Tensor,
    directions: Tensor,
    radius: float | None,
    batch_size: int,
) -> Tensor:
    """Mean normal curvature of the level set of F_i = logit[i] - logit[source] through each point, per class i.

    The mean over t directions v of v^T G v, with G = P Hess(F_i) P / |grad F_i|, P = I - n n^T and n = grad F_i /
    |grad F_i|, each divided by |P v|^2, so that it is the curvature along the unit vector P v / |P v|: where the region
    {F_i < 0} is the inside of a ball of radius R around 0 it is exactly +1/|x|, +1/R on the boundary. The projections
    of all classes share the passes for v: v^T P H P v = v^T H v - 2 (n v) v^T H n + (n v)^2 n^T H n, in which the first
    term comes for all classes at once and H n takes one further product per class. (Expanding it holds for second
    derivatives; differences at a radius, of a network that bends within it, are not quite bilinear.)

    Args:
        model: images to logits.
        points: (n, c, h, w).
        source: (n,) int64.
        classes: (n, k) int64.
        directions: (n, t, c, h, w) of length 1.
        radius: of the differences, in units of the data; None: exact second derivatives.
        batch_size: images per forward pass.

    Returns:
        (n, k), one over a length in units of the data; NaN where the gradient is zero or something is not finite.
    """
    count, k = classes.shape
    _, gradients = class_gradients(model, points, classes, source)
    slopes = torch.linalg.vector_norm(gradients.flatten(2), dim=2)  # (n, k)
    normals = unit(gradients.flatten(0, 1)).view_as(gradients)
    bends = second_derivatives(model, points, source, classes, directions, radius, batch_size)  # (n, k, t)
    flat = (points.repeat_interleave(k, dim=0), source.repeat_interleave(k), classes.flatten(), normals.flatten(0, 1))
    parts = zip(*(torch.split(tensor, batch_size) for tensor in flat), strict=True)
    twists = torch.cat([hessian_products(model, x, s, o, n[:, None], radius)[:, 0] for x, s, o, n in parts])
    twists, normals = twists.view(count, k, -1), normals.flatten(2)  # (n, k, entries): H n, n
    rays = directions.flatten(2).transpose(1, 2)  # (n, entries, t)
    along = normals @ rays  # (n, k, t)
    squares = (normals * twists).sum(dim=2, keepdim=True)
    tangential = (bends - 2 * along * (twists @ rays) + along.square() * squares) / (1 - along.square())
    found = tangential.mean(dim=2) / slopes
    return torch.where(found.isfinite() & (slopes > 0), found, math.nan)


def squeeze(model: nn.Module, images: Tensor, probabilities: Tensor, box: Box, bits: int, batch_size: int) -> Tensor:
    """Feature squeezing: the larger l1 distance of the softmax outputs before and after two ways of squeezing, (n,).

    Xu, Evans, Qi, "Feature squeezing", NDSS 2018: fewer bits of colour, and a median over 2 x 2 pixels (the upper one
    of the two middle values, edges repeated, as in their code). Departures: their third way, smoothing by non-local
    means, is left out; on data with flipped frequencies the pixels behind the flip are squeezed.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        probabilities: (n, classes), softmax outputs on them.
        box: of valid images, the ends of which are the ends of the scale of colours.
        bits: of colour left.
        batch_size: images per forward pass.

    Returns:
        Distances in [0, 2]; NaN where the valid images have no bounds.
    """
    if math.isinf(box.low) or math.isinf(box.high):
        return probabilities.new_full((len(images),), math.nan)
    pixels = flip(images) if box.flipped else images
    levels, side = 2**bits - 1, box.high - box.low
    coarse = ((pixels - box.low) / side * levels).round() / levels * side + box.low
    distances = []
    for squeezed in (coarse, median(pixels)):
        logits = logits_of(model, flip(squeezed) if box.flipped else squeezed, batch_size)
        distances.append((logits.softmax(dim=1) - probabilities).abs().sum(dim=1))
    return torch.maximum(*distances)


def median(pixels: Tensor) -> Tensor:
    """Upper median over each pixel and its left and upper neighbours, (n, c, h, w) to the same shape."""
    padded = functional.pad(pixels, (1, 0, 1, 0), mode="replicate")
    windows = padded.unfold(2, PIXELS, 1).unfold(3, PIXELS, 1).flatten(4)  # (n, c, h, w, 4)
    return windows.sort(dim=4).values[..., PIXELS**2 // 2]


def instability(model: nn.Module, images: Tensor, probabilities: Tensor, noise: Tensor, batch_size: int) -> Tensor:
    """Mean l1 distance of the softmax outputs with and without noise, (n,) in [0, 2].

    Noise as a probe of perturbed images: Roth, Kilcher, Hofmann, "The odds are odd", ICML 2019, who look at each pair
    of logits and calibrate it by class; here one plain distance, which needs no training images.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        probabilities: (n, classes), softmax outputs on them.
        noise: (n, t, c, h, w); noisy images are not clipped.
        batch_size: images per forward pass.
    """
    noisy = (images[:, None] + noise).flatten(0, 1)
    found = logits_of(model, noisy, batch_size).softmax(dim=1).view(*noise.shape[:2], -1)
    return (found - probabilities[:, None]).abs().sum(dim=2).mean(dim=1)
