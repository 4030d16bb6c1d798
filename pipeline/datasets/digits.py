"""The 1,797 handwritten digits that ship inside scikit-learn."""

from __future__ import annotations

import numpy as np

from pipeline.datasets.samples import Samples


def digits() -> Samples:
    """Handwritten digits inside scikit-learn: 1,797 greyscale images of 8 x 8 pixels, 10 classes, no download.

    Source: test set of "Optical recognition of handwritten digits" (Alpaydin and Kaynak, UCI, 1998). The 17 grey
    levels 0-16 are spread over 0-255. There is no test split: the pipeline takes one.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Samples(
        ids=[f"digits/{row:04d}" for row in range(len(pixels))],
        labels=bunch.target.astype(np.int64),
        classes=[str(name) for name in bunch.target_names],
        splits=None,
        read=lambda rows: pixels[rows],
    )
