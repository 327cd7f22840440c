"""The Fréchet distance of pictures, between Gaussians of their features."""

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Fréchet distance of two sets of features.

    As in FID (Heusel et al., 2017): squared, between Gaussians of their means
    and covariances. It depends on the number of pictures; compare only figures
    of equal numbers.

    Args:
        first: float `(N, D)`, N at least 2.
        second: float `(M, D)`, M at least 2.
    """
    return gaussian_distance(*_moments(first), *_moments(second))


def gaussian_distance(
    first_mean: np.ndarray,
    first_covariance: np.ndarray,
    second_mean: np.ndarray,
    second_covariance: np.ndarray,
) -> float:
    """Return the squared Fréchet distance of two Gaussians.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)` (Dowson and Landau,
    1982): symmetric matrices only, so that singular ones do no harm.

    Args:
        first_mean: float `(D,)`.
        first_covariance: float `(D, D)`, positive semidefinite.
        second_mean: float `(D,)`.
        second_covariance: float `(D, D)`, positive semidefinite.
    """
    values, vectors = np.linalg.eigh(first_covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ second_covariance @ root)
    distance = (
        np.sum((first_mean - second_mean) ** 2)
        + np.trace(first_covariance)
        + np.trace(second_covariance)
        - 2 * np.sum(np.sqrt(np.maximum(product, 0)))
    )
    return float(max(distance, 0))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = features.astype(np.float64)
    covariance = np.cov(features, rowvar=False)
    return features.mean(axis=0), np.atleast_2d(covariance)
