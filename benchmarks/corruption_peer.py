"""The peer of our corruptions: imagecorruptions 1.1.2, ImageNet-C's code image by image, in a folder of its own.

Michaelis et al., "Benchmarking robustness in object detection", 2019, made a package of Hendrycks and Dietterich's code
(ICLR 2019) and replaced ImageMagick by NumPy. It dates from 2019, so three things that newer libraries broke are mended
around it, none of which takes time: `pkg_resources` (gone from setuptools) is stood in for, `numpy.float_` is named
`numpy.float64`, and scikit-image's argument `multichannel` is handed on as `channel_axis`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What the environment has (NumPy, SciPy, Pillow) is left to it, so that both sides use the same.
PACKAGES = ("imagecorruptions==1.1.2", "opencv-python-headless", "scikit-image", "lazy-loader")


class Peer(NamedTuple):
    """Theirs.

    Attributes:
        corrupt: (image uint8 (h, w, 3), severity, name) -> the same, corrupted.
        exact: likewise, before the result is cut to whole grey levels.
        versions: of what it runs on.
    """

    corrupt: Callable[..., NDArray[np.uint8]]
    exact: Callable[[NDArray[np.uint8], int, str], NDArray[Any]]
    versions: str


def install(folder: Path) -> str | None:
    """Install it, without touching the environment; None, or why that failed."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def load(folder: Path, *, original: bool = False) -> Peer:
    """Import it from where it was installed, mended.

    Args:
        folder: where `install` put it.
        original: whether to undo two of its departures from the original, which is not for timing: that it keeps the
            upper left part of an enlarged image instead of the middle, and enlarges the photographs of frost.
    """
    sys.path.insert(0, str(folder))
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda _, name: str(folder / "imagecorruptions" / name)
    kept = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = stand_in
    setattr(np, "float_", np.float64)  # noqa: B010 - not the name that a checker would mend
    try:
        package: Any = importlib.import_module("imagecorruptions")
        code: Any = importlib.import_module("imagecorruptions.corruptions")
        opencv: Any = importlib.import_module("cv2")
    finally:
        if kept is None:
            del sys.modules["pkg_resources"]
        else:
            sys.modules["pkg_resources"] = kept
    opencv.setNumThreads(1)
    code.gaussian = _with_channels(code.gaussian)
    if original:
        code.clipped_zoom = _trimmed(code.clipped_zoom)
        opencv.resize = lambda image, **_: image

    def corrupt(image: NDArray[np.uint8], severity: int, name: str) -> NDArray[np.uint8]:
        # zoom_blur prints what it skips; spatter divides by zero where there is no drop.
        with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
            return np.asarray(package.corrupt(image, severity=severity, corruption_name=name))

    def exact(image: NDArray[np.uint8], severity: int, name: str) -> NDArray[Any]:
        with np.errstate(invalid="ignore"):
            return np.asarray(package.corruption_dict[name](Image.fromarray(image), severity), dtype=np.float64)

    names = ("imagecorruptions", "scikit-image", "opencv-python-headless", "numpy", "scipy", "pillow")
    return Peer(corrupt, exact, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))


def _with_channels(gaussian: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(image: NDArray[Any], sigma: Any, *, multichannel: bool = False, **options: Any) -> Any:
        return gaussian(image, sigma, channel_axis=-1 if multichannel else None, **options)

    return wrapped


def _trimmed(clipped_zoom: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    def wrapped(image: NDArray[Any], factor: float) -> NDArray[Any]:
        enlarged = clipped_zoom(image, factor)
        top, left = ((enlarged.shape[axis] - image.shape[axis]) // 2 for axis in (0, 1))
        return enlarged[top : top + image.shape[0], left : left + image.shape[1]]

    return wrapped
