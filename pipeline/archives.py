"""Catalogue of the published archives of corrupted images: what they hold, and where they are published.

Standard library only: the workflow reads it. Addresses, sizes and checksums are those that Zenodo lists; an archive for
which no checksum is published cannot be downloaded, only read from a folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.contracts import UserError


class Part(NamedTuple):
    """One file to download.

    Attributes:
        url: its address.
        checksum: `md5:` or `sha256:` and the hexadecimal digits, as published.
        size: bytes.
    """

    url: str
    checksum: str
    size: int


class Member(NamedTuple):
    """One corruption in an archive.

    Attributes:
        stem: its name there: of a file without suffix, or of a folder.
        family: group of corruptions that the paper puts it in.
        part: name of the part that holds it; None where there are no parts.
    """

    stem: str
    family: str
    part: str | None


class Archive(NamedTuple):
    """A published set of corrupted images.

    Attributes:
        method: corruption that reads it: `array_archive` or `folder_archive`.
        folder: folder that holds the members once it is unpacked; empty if they lie at the top.
        members: corruptions by our name.
        parts: files to download by name; none if no checksum is published.
        published: page that leads to it.
        source: paper.
    """

    method: str
    folder: str
    members: Mapping[str, Member]
    parts: Mapping[str, Part]
    published: str
    source: str


HENDRYCKS = (
    "Hendrycks & Dietterich, 'Benchmarking neural network robustness to common corruptions and perturbations', "
    "ICLR 2019"
)
MINTUN = (
    "Mintun, Kirillov & Xie, 'On interaction between augmentations and corruptions in natural corruption robustness', "
    "NeurIPS 2021"
)
KAR = (
    "Kar, Yeo, Atanov & Zamir, '3D common corruptions and data augmentation', CVPR 2022; Kar, Yeo & Zamir, '3D common "
    "corruptions for object recognition', ICML 2022 workshop Shift Happens"
)
COMMON = {  # families of the 15 corruptions of the paper and of its four for validation
    "gaussian_noise": "noise",
    "shot_noise": "noise",
    "impulse_noise": "noise",
    "speckle_noise": "noise",
    "defocus_blur": "blur",
    "glass_blur": "blur",
    "motion_blur": "blur",
    "zoom_blur": "blur",
    "gaussian_blur": "blur",
    "snow": "weather",
    "frost": "weather",
    "fog": "weather",
    "brightness": "weather",
    "spatter": "weather",
    "contrast": "digital",
    "elastic_transform": "digital",
    "pixelate": "digital",
    "jpeg_compression": "digital",
    "saturate": "digital",
}
FOR_VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # in ImageNet-C a part, as each family is
IMAGENET_C_BAR = {
    "blue_noise_sample": "noise",
    "brownish_noise": "noise",
    "caustic_refraction": "warp",
    "checkerboard_cutout": "occlusion",
    "concentric_sine_waves": "pattern",
    "inverse_sparkles": "pattern",
    "perlin_noise": "noise",
    "plasma_noise": "noise",
    "single_frequency_greyscale": "pattern",
    "sparkles": "pattern",
}
CIFAR10_C_BAR = {
    "blue_noise_sample": "noise",
    "brownish_noise": "noise",
    "checkerboard_cutout": "occlusion",
    "circular_motion_blur": "blur",
    "inverse_sparkles": "pattern",
    "lines": "pattern",
    "pinch_and_twirl": "warp",
    "ripple": "warp",
    "sparkles": "pattern",
    "transverse_chromatic_aberration": "warp",
}
IMAGENET_3DCC = {
    "near_focus": "depth of field",
    "far_focus": "depth of field",
    "xy_motion_blur": "camera motion",
    "z_motion_blur": "camera motion",
    "flash": "lighting",
    "fog_3d": "weather",
    "h265_crf": "video",
    "h265_abr": "video",
    "bit_error": "video",
    "iso_noise": "noise",
    "color_quant": "noise",
    "low_light": "noise",
}
STEMS = {  # spelt otherwise in the archives
    "concentric_sine_waves": "cocentric_sine_waves",
    "transverse_chromatic_aberration": "transverse_chromatic_abberation",
}


def _members(families: Mapping[str, str], parts: Mapping[str, str]) -> Mapping[str, Member]:
    return {name: Member(STEMS.get(name, name), family, parts.get(name)) for name, family in families.items()}


def _zenodo(record: int, file: str, md5: str, size: int) -> Part:
    return Part(f"https://zenodo.org/records/{record}/files/{file}?download=1", f"md5:{md5}", size)


ARCHIVES: Mapping[str, Archive] = {
    "cifar10_c": Archive(
        "array_archive",
        "CIFAR-10-C",
        _members(COMMON, dict.fromkeys(COMMON, "all")),
        {"all": _zenodo(2535967, "CIFAR-10-C.tar", "56bf5dcef84df0e2308c6dcbcbbd8499", 2_918_471_680)},
        "https://zenodo.org/records/2535967",
        HENDRYCKS,
    ),
    "cifar100_c": Archive(
        "array_archive",
        "CIFAR-100-C",
        _members(COMMON, dict.fromkeys(COMMON, "all")),
        {"all": _zenodo(3555552, "CIFAR-100-C.tar", "11f0ed0f1191edbf9fa23466ae6021d3", 2_918_473_216)},
        "https://zenodo.org/records/3555552",
        HENDRYCKS,
    ),
    "imagenet_c": Archive(
        "folder_archive",
        "",
        _members(COMMON, COMMON | dict.fromkeys(FOR_VALIDATION, "extra")),
        {
            "noise": _zenodo(2235448, "noise.tar", "e80562d7f6c3f8834afb1ecf27252745", 22_565_673_785),
            "blur": _zenodo(2235448, "blur.tar", "2d8e81fdd8e07fef67b9334fa635e45c", 7_112_704_951),
            "weather": _zenodo(2235448, "weather.tar", "33ffea4db4d93fe4a428c40a6ce0c25d", 12_797_438_995),
            "digital": _zenodo(2235448, "digital.tar", "89157860d7b10d5797849337ca2e5c03", 7_757_510_705),
            "extra": _zenodo(2235448, "extra.tar", "d492dfba5fc162d8ec2c3cd8ee672984", 15_789_490_144),
        },
        "https://zenodo.org/records/2235448",
        HENDRYCKS,
    ),
    "cifar10_c_bar": Archive(
        "array_archive",
        "CIFAR-10-C-Bar",
        _members(CIFAR10_C_BAR, {}),
        {},
        "https://github.com/facebookresearch/augmentation-corruption (imagenet_c_bar/make_cifar10_c_bar.py makes it)",
        MINTUN,
    ),
    "imagenet_c_bar": Archive(
        "folder_archive",
        "ImageNet-C-Bar",
        _members(IMAGENET_C_BAR, {}),
        {},
        "https://dl.fbaipublicfiles.com/inc_bar/imagenet_c_bar.tar.gz",
        MINTUN,
    ),
    "imagenet_3dcc": Archive(
        "folder_archive",
        "ImageNet-3DCC",
        _members(IMAGENET_3DCC, {}),
        {},
        "https://datasets.epfl.ch/3dcc/index.html",
        KAR,
    ),
}


def archive_named(name: str, where: str) -> Archive:
    """The archive of that name.

    Raises:
        UserError: there is none.
    """
    if name not in ARCHIVES:
        raise UserError(f"{where}: no archive '{name}'{_nearest(name, ARCHIVES)}; there are {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


def member_named(archive: str, corruption: str, where: str) -> Member:
    """A corruption in an archive.

    Raises:
        UserError: there is no such archive, or no such corruption in it.
    """
    members = archive_named(archive, where).members
    if corruption not in members:
        hint = _nearest(corruption, members)
        raise UserError(f"{where}: {archive} has no corruption '{corruption}'{hint}; it has {', '.join(members)}")
    return members[corruption]


def _nearest(word: str, known: Mapping[str, object]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""
