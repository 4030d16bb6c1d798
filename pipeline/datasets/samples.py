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
        read: decodes the samples of the given indexes to (k, c, h, w) uint8, all of one size.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    splits: Sequence[str] | None
    read: Callable[[NDArray[np.int64]], Array]
