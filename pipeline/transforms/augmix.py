"""AugMix: random chains of image operations, mixed with the clean image, by timm."""

from __future__ import annotations

import math
import random
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from pipeline.contracts import Count, Positive, Range, UserError

# The paper's nine, in timm's names of those whose strength grows with the magnitude.
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "PosterizeIncreasing",
    "Rotate",
    "SolarizeIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)


def augmix(
    *,
    images: Tensor,
    generator: torch.Generator,
    severity: Annotated[float, Range(low=0, high=10)] = 3.0,
    width: Count = 3,
    depth: Count | None = None,
    alpha: Positive = 1.0,
    all_operations: bool = False,
    blended: bool = False,
) -> Tensor:
    """Augment a batch: (1 - m) x + m sum_k w_k chain_k(x), m ~ Beta(alpha, alpha), w ~ Dirichlet(alpha, ..., alpha).

    A chain applies `depth` operations, each drawn uniformly with its own strength. Source: Hendrycks et al., "AugMix:
    a simple data processing method to improve robustness and uncertainty", ICLR 2020; computed by timm's AugMix, whose
    magnitude is the paper's severity: a strength is uniform from 0 to `severity` tenths of an operation's largest (30
    degrees, a shear of 0.3, a shift by a third of the side, all 256 levels solarised, all 4 bits posterised).

    As the released code and unlike timm's defaults: the nine operations of the paper, black outside the image
    (grey), bilinear interpolation (bilinear or bicubic at random), shifts by up to 1/3 of the side (0.45).
    Departures from the released code: strengths start at 0, there at 0.1; angles and shifts are not cut to whole
    degrees and pixels; chains are summed and the sum mixed with the image in 8 bits, there in floats. So the images
    are rounded to 8 bits first (which changes nothing where they were decoded from 8 bits), and so are the values
    returned. timm draws from the global generators of Python and NumPy: these get seeds of their own for each image
    and are put back afterwards, so no other thread may draw from them meanwhile.

    Args:
        images: (n, c, h, w) in [0, 1], with 1 channel or 3. All operations work on one channel as on three; only the
            colour operation of `all_operations` is the identity there.
        generator: CPU generator of the seeds.
        severity: 3 in the paper for CIFAR, 1 for ImageNet. At 0 only contrast, equalisation and posterising to 4 bits
            remain.
        width: chains.
        depth: operations per chain; None draws 1, 2 or 3 for each chain.
        alpha: of the mixing weights; 1 makes them uniform.
        all_operations: also change colour, contrast, brightness and sharpness, as timm does by default. They overlap
            with the corruptions of ImageNet-C; their factors are 1 plus or minus 0.09 of the strength, in the
            paper's code 0.1 plus 0.18 of it.
        blended: timm's quicker mixing, one 8-bit blend per chain, which rounds more.

    Returns:
        (n, c, h, w) in [0, 1], multiples of 1/255, without gradient.

    Raises:
        UserError: neither 1 channel nor 3.
    """
    from PIL import Image
    from timm.data.auto_augment import AugMixAugment, augmix_ops

    channels = images.shape[1]
    if channels not in (1, 3):
        raise UserError(f"augmix: images of {channels} channels, expected 1 or 3: choose another augmentation")
    settings = {
        "magnitude_std": math.inf,  # timm's code for a strength uniform from 0 to the magnitude
        "img_mean": 0,  # fill; a single number serves one channel and three
        "translate_pct": 1 / 3,
        "interpolation": Image.Resampling.BILINEAR,
    }
    operations = augmix_ops(severity, settings, None if all_operations else list(OPERATIONS))
    mix = AugMixAugment(operations, alpha=alpha, width=width, depth=depth or -1, blended=blended)
    pixels = (255 * images.detach()).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (n, h, w, c)
    seeds = torch.randint(2**32, (len(images), 2), generator=generator).tolist()
    mixed = np.empty_like(pixels)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (timm draws from it)
    try:
        for row, (seed, other) in enumerate(seeds):
            random.seed(seed)
            np.random.seed(other)  # noqa: NPY002
            image = Image.fromarray(pixels[row, :, :, 0] if channels == 1 else pixels[row])
            mixed[row] = np.asarray(mix(image)).reshape(pixels[row].shape)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    return torch.from_numpy(mixed).permute(0, 3, 1, 2).to(images).contiguous() / 255
