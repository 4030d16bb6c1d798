"""Two classes that one known direction tells apart, in noise: the synthetic set of "Hold me tight!"."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import Count, Natural, NonNegative, Positive, UserError, derive_seed
from pipeline.datasets.samples import Samples


def synthetic(
    *,
    epsilon: Positive = 5.0,
    sigma: Positive = 1.0,
    dimension: Count = 100,
    samples: Count = 10000,
    test_samples: Count = 1000,
    basis_seed: Natural = 0,
    rho: NonNegative = 0.0,
) -> Samples:
    """Two classes at +-epsilon along one random direction, Gaussian noise along all others; no download.

    x = U (epsilon y, w) with y = +-1, w ~ N(0, sigma^2 I) in dimension - 1 dimensions, and a random orthonormal U. The
    first column of U (`basis`) is the only direction that tells the classes apart, so the margin of the best
    classifier is epsilon along it and infinite in its orthogonal complement. With rho > 0 there is a second feature,
    x = U (epsilon y, rho y, w) with w in dimension - 2 dimensions, for the question how much a boundary moves when a
    feature is added: the second column of U tells the classes apart as well.
    Source: Ortiz-Jimenez, Modas, Moosavi-Dezfooli and Frossard, "Hold me tight! Influence of discriminative features
    on deep network boundaries", NeurIPS 2020; defaults as in its first experiment. Departures: exactly every second
    sample is of class +1; the paper publishes neither U nor seeds, and no code for this set.

    Args:
        epsilon: distance of each class from the hyperplane between them.
        sigma: standard deviation of the noise.
        dimension: of the space.
        samples: number of training samples; a larger number keeps the first ones, up to rounding.
        test_samples: number of test samples; likewise.
        basis_seed: seed of U and of the noise, drawn independently.
        rho: distance of each class from the middle along the second feature; 0: there is none.

    Returns:
        Samples of (n, 1, 1, dimension) float32, without bounds; labels 0 for y = -1, 1 for y = +1. Their directions are
        the first column of U, with rho > 0 the first two.

    Raises:
        UserError: a second feature in one dimension.
    """
    features = [epsilon, rho] if rho > 0 else [epsilon]
    if dimension < len(features):
        raise UserError(f"rho: given {rho:g} with dimension {dimension}, expected a dimension of at least 2")
    frame = basis(dimension, basis_seed)
    parts = {}
    for split, count in (("train", samples), ("test", test_samples)):
        generator = np.random.default_rng(derive_seed("synthetic", split, basis_seed))
        coordinates = np.empty((count, dimension))
        signs = 2 * (np.arange(count) % 2) - 1
        coordinates[:, : len(features)] = signs[:, None] * features
        coordinates[:, len(features) :] = sigma * generator.standard_normal((count, dimension - len(features)))
        parts[split] = (coordinates @ frame.T).astype(np.float32)
    points = np.concatenate(list(parts.values()))[:, None, None]
    return Samples(
        ids=[f"synthetic/{split}/{row:05d}" for split, part in parts.items() for row in range(len(part))],
        labels=np.concatenate([np.arange(len(part)) % 2 for part in parts.values()]).astype(np.int64),
        classes=["-1", "+1"],
        splits=[split for split, part in parts.items() for _ in part],
        read=lambda rows: points[rows],
        box=(None, None),
        directions=frame.T[: len(features), None, None].astype(np.float32),
    )


def basis(dimension: int, basis_seed: int) -> NDArray[np.float64]:
    """The random orthonormal U, (dimension, dimension): its first column tells the classes apart.

    U is uniform (Haar): the Q of a Gaussian matrix's QR decomposition with the signs that make R's diagonal positive
    (Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 2007).
    """
    generator = np.random.default_rng(derive_seed("synthetic", "basis", basis_seed))
    q, r = np.linalg.qr(generator.standard_normal((dimension, dimension)))
    return np.asarray(q * np.sign(np.diag(r)))
