"""What a source hands over: ids, labels and a function that decodes the images that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """A labelled set of images, not yet decoded.

    Attributes:
        ids: stable and unique; they do not change when the set is read in another order.
        labels: (n,) int64 class indexes.
        classes: names of the classes.
        splits: `train` or `test` for each sample, or None where the source has no test split of its own.
        read: decodes the samples of the given indexes to (k, c, h, w), all of one size: uint8 pixels, or float32 for
            data that are no pixels.
        encoded: name (for messages) and bytes of one sample's image file, undecoded; None where there are no files.
            It must work in forked worker processes.
        box: smallest and largest value of valid float32 data, None where there is no bound; pixels have [0, 1].
        directions: (k, c, h, w) float32, orthonormal directions that tell the classes apart, where the source knows all
            of them.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    splits: Sequence[str] | None
    read: Callable[[NDArray[np.int64]], Array]
    encoded: Callable[[int], tuple[str, bytes]] | None = None
    box: tuple[float | None, float | None] = (0.0, 1.0)
    directions: Array | None = None
