"""Predictions along orbits of each image: rotations, shifts, scalings, changes of colour and smooth deformations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Positive, Range, UserError, View
from pipeline.measurements import _diffeomorphisms as diffeomorphisms
from pipeline.measurements.inference import correct, logits_of, nullable
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.orbits import Element, orbit, transformed
from pipeline.numerics.randomness import normal

ACCEPTS: tuple[str, ...] = ("clean",)
COLUMNS: Mapping[str, Column] = {
    "family": Column("string", "rotation, translation, scale, colour or diffeomorphism"),
    "strength": Column(
        "float64",
        "of rotations in degrees, of translations and diffeomorphisms (typical displacement) in shares of the side, of "
        "scalings and colours s for the factors 1 + s and 1 / (1 + s), for hues 90 s degrees",
    ),
    "element": Column("int16", "index of the element among those of this family and strength"),
    "transform": Column("string", "the family, or of colours brightness, contrast, gamma, saturation or hue"),
    "values": Column(
        "list<float64>",
        "angle in degrees; shift downwards and to the right in shares of the side; factor or exponent; index of a draw",
    ),
    "label": Column("int32", "true class"),
    "clean_prediction": Column("int32", "class of the clean image"),
    "prediction": Column("int32", "class of the transformed image"),
    "correct": Column("bool", "prediction is the label; false where a logit is NaN"),
    "agrees": Column("bool", "prediction is that of the clean image; false where a logit is NaN"),
    "confidence": Column("float32", "softmax probability of the prediction; null where a logit is NaN"),
    "distance": Column("float64", "l2 distance to the clean image, in units of the data"),
    "change": Column("float64", "squared l2 distance of the logits to those of the clean image; null if not finite"),
    "noise_change": Column(
        "float64", "the same for Gaussian noise of norm `distance`; null likewise, and but for diffeomorphisms"
    ),
    "pair_change": Column(
        "float64", "the same for another clean image, the next in the order of the seeds; null likewise"
    ),
}
NOISE = 0x5DEECE66D  # parts the noise's stream from the deformations'


def invariance(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    box: Box = UNIT,
    families: Sequence[Literal["rotation", "translation", "scale", "colour", "diffeomorphism"]] = (
        "rotation",
        "translation",
        "scale",
        "colour",
        "diffeomorphism",
    ),
    angles: Sequence[Positive] = (7.5, 15.0, 30.0),
    shifts: Sequence[Positive] = (0.03125, 0.0625, 0.125),
    scales: Sequence[Positive] = (0.125, 0.25),
    colours: Sequence[Positive] = (0.25, 0.5),
    displacements: Sequence[Positive] = (0.025, 0.05, 0.1),
    cut: Annotated[int, Range(low=2)] = 3,
    draws: Count = 4,
    padding: Literal["reflection", "border", "zeros"] = "reflection",
    samples: Count | None = None,
) -> dict[str, Sequence[Any]]:
    """Predictions on the elements of each image's orbits, one row per sample, family, strength and element.

    The elements of the groups are fixed (see `pipeline.numerics.orbits`); diffeomorphisms are drawn for each sample,
    the same fields for every strength, scaled. All work on pixels: flipped data are flipped back for it, and data with
    other bounds than [0, 1] are mapped to [0, 1] and back. Interpolation is bilinear, so it blurs, too.

    For diffeomorphisms the rows hold what relative stability is made of: Petrini, Favero, Geiger, Wyart, "Relative
    stability toward diffeomorphisms indicates performance in deep nets", NeurIPS 2021. R is the typical |f(tau x) -
    f(x)|^2 over the typical |f(x + eta) - f(x)|^2; D and G are these two over the typical |f(x) - f(z)|^2 of two
    images, which R does not need. Departures: the noise has the norm of its own sample's deformation, there the mean
    norm; D is told from one other image z for each x, there from all pairs; strengths are typical displacements in
    shares of the side, there temperatures or pixels; noise, as there, may leave the box.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64, of the diffeomorphisms and of the noise.
        views: not used.
        batch_size: images per pass.
        box: the valid images.
        families: which transforms.
        angles: of rotations, in degrees, each in both directions.
        shifts: of translations, in shares of the side, along each axis in both directions.
        scales: s of the scalings 1 + s and 1 / (1 + s).
        colours: s of the changes of brightness, contrast, gamma, and of images with three channels saturation and hue.
        displacements: typical lengths of diffeomorphisms, in shares of the side, at most 1 / (pi cut): above that they
            tend to fold the image.
        cut: largest frequency of the diffeomorphisms, in half waves per side, at most two less than the shorter side.
        draws: diffeomorphisms of each strength.
        padding: what comes from outside the image: its reflection, its border or zeros (diffeomorphisms: its border).
        samples: number of images, the first ones; None: all.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: the data are vectors or unbounded, no transform is left, or diffeomorphisms fold the image or are
            finer than its pixels.
    """
    images, labels, seeds = images[:samples], labels[:samples], seeds[:samples]
    levels = {"rotation": angles, "translation": shifts, "scale": scales, "colour": colours}
    members = [
        _Member(family, strength, place, element)
        for family in dict.fromkeys(families)
        for strength in (displacements if family == "diffeomorphism" else levels[family])
        for place, element in enumerate(
            [Element(family, (float(draw),)) for draw in range(draws)]
            if family == "diffeomorphism"
            else orbit(family, strength, images.shape[1])
        )
    ]
    _check(images, box, members, cut)
    clean = logits_of(model, images, batch_size)
    parts = []
    for rows in torch.split(torch.arange(len(images), device=images.device), batch_size):
        own = images[rows], seeds[rows.to(seeds.device)]
        found = [
            _outcome(model, own[0], clean[rows], labels[rows], *seen)
            for seen in _seen(*own, members, box, cut, draws, padding)
        ]
        parts.append({name: torch.stack([outcome[name] for outcome in found]) for name in found[0]})
    values = {name: torch.cat([part[name] for part in parts], dim=1).flatten() for name in parts[0]}
    pair = _squared(clean, clean[_next(seeds).to(clean.device)])
    count, repeats = len(images), len(members)
    return {
        "row": list(range(count)) * repeats,
        "family": [member.family for member in members for _ in range(count)],
        "strength": [member.strength for member in members for _ in range(count)],
        "element": [member.place for member in members for _ in range(count)],
        "transform": [member.element.transform for member in members for _ in range(count)],
        "values": [list(member.element.values) for member in members for _ in range(count)],
        "label": labels.tolist() * repeats,
        "clean_prediction": clean.argmax(dim=1).tolist() * repeats,
        **{name: values[name].tolist() for name in ("prediction", "correct", "agrees", "distance")},
        **{name: nullable(values[name], values[name].isfinite()) for name in ("confidence", "change", "noise_change")},
        "pair_change": nullable(pair, pair.isfinite() & (count > 1)) * repeats,
    }


class _Member(NamedTuple):
    """An element of an orbit, and where it belongs; of diffeomorphisms its value is the index of the draw."""

    family: str
    strength: float
    place: int
    element: Element


def _check(images: Tensor, box: Box, members: Sequence[_Member], cut: int) -> None:
    """Refuse what makes no sense, in one line."""
    height, width = images.shape[-2:]
    if min(height, width) < 2:
        raise UserError(f"invariance: given data of {height} x {width} values, expected images; leave it out for these")
    if not (math.isfinite(box.low) and math.isfinite(box.high)):
        raise UserError("invariance: given data without bounds, expected images with bounded values; leave it out here")
    if not members:
        raise UserError("invariance: no transform is left, expected a family with at least one strength")
    lengths = [member.strength for member in members if member.family == "diffeomorphism"]
    if lengths and cut > min(height, width) - 2:
        raise UserError(f"cut: given {cut}, expected at most {min(height, width) - 2} for {height} x {width} pixels")
    if lengths and max(lengths) > diffeomorphisms.largest(cut):
        bound = f"at most 1 / (pi cut) = {diffeomorphisms.largest(cut):.3g}, or a smaller cut than {cut}"
        raise UserError(f"displacements: given {max(lengths):g}, which folds images; expected {bound}")


def _seen(
    images: Tensor, seeds: Tensor, members: Sequence[_Member], box: Box, cut: int, draws: int, padding: str
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The images as each member makes them, and for diffeomorphisms the images with noise of the same norm."""
    pixels = _to_pixels(images, box)
    fields = None
    for member in members:
        if member.family != "diffeomorphism":
            yield _from_pixels(transformed(pixels, member.element, padding), box), None
            continue
        if fields is None:
            fields = diffeomorphisms.fields(seeds, draws, *images.shape[-2:], cut=cut)
        moved = _from_pixels(diffeomorphisms.deform(pixels, member.strength * fields[:, member.place]), box)
        noise = normal(seeds ^ (NOISE + member.place), tuple(images.shape[1:])).double().to(images.device)
        noise *= per_sample(l2(moved.double() - images.double()) / l2(noise), noise)
        yield moved, (images + noise).to(images.dtype)


def _outcome(
    model: nn.Module, images: Tensor, clean: Tensor, labels: Tensor, moved: Tensor, noisy: Tensor | None
) -> dict[str, Tensor]:
    """What the model makes of the transformed images, as columns; NaN where it is not known."""
    logits = logits_of(model, moved, len(moved))
    change = _squared(logits, clean)
    return {
        "prediction": logits.argmax(dim=1),
        "correct": correct(logits, labels),
        "agrees": correct(logits, clean.argmax(dim=1)) & ~clean.isnan().any(dim=1),
        "confidence": logits.softmax(dim=1).amax(dim=1),
        "distance": l2(moved.double() - images.double()),
        "change": change,
        "noise_change": change * math.nan if noisy is None else _squared(logits_of(model, noisy, len(noisy)), clean),
    }


def _to_pixels(images: Tensor, box: Box) -> Tensor:
    pixels = flip(images) if box.flipped else images
    return pixels if (box.low, box.high) == (0, 1) else (pixels - box.low) / (box.high - box.low)


def _from_pixels(pixels: Tensor, box: Box) -> Tensor:
    images = pixels if (box.low, box.high) == (0, 1) else box.low + (box.high - box.low) * pixels
    return flip(images) if box.flipped else images


def _squared(logits: Tensor, others: Tensor) -> Tensor:
    """Squared l2 distances, (n,) float64."""
    return (logits.double() - others.double()).square().sum(dim=1)


def _next(seeds: Tensor) -> Tensor:
    """For each sample the one with the next larger seed, the smallest for the largest: (n,) int64."""
    order = seeds.argsort()
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    return following
