"""Suites of generated corruptions, by name; one line of a config gives a whole one. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping

SUITES: Mapping[str, tuple[str, ...]] = {
    # Hendrycks & Dietterich, ICLR 2019: the fifteen of ImageNet-C and CIFAR-C
    "c": (
        "gaussian_noise", "shot_noise", "impulse_noise",
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
        "snow", "frost", "fog", "brightness",
        "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    ),
    # their four for validation
    "c_extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
    # Mintun, Kirillov & Xie, NeurIPS 2021: far from the fifteen, so far from what augmentations were tuned on
    "c_bar": (
        "blue_noise_sample", "brownish_noise", "plasma_noise", "perlin_noise",
        "single_frequency_greyscale", "concentric_sine_waves", "sparkles", "inverse_sparkles",
        "checkerboard_cutout", "caustic_refraction",
    ),
    # the same for small images
    "c_bar_cifar": (
        "blue_noise_sample", "brownish_noise",
        "sparkles", "inverse_sparkles", "lines",
        "checkerboard_cutout", "pinch_and_twirl", "ripple", "transverse_chromatic_aberration",
        "circular_motion_blur",
    ),
}  # fmt: skip
SEPARATOR = "."  # between the id of a suite and that of a corruption in it
ALONE = "corruptions"  # the suite of the corruptions that a config names one by one


def suite_of(corruption: str) -> str:
    """The suite's id, as the config has it, in the id of a corruption."""
    suite, separator, _ = corruption.partition(SEPARATOR)
    return suite if separator else ALONE
