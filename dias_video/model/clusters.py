"""k-means."""

from __future__ import annotations

import warnings

import torch
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from dias_video.draws import Draws


def kmeans(points: Tensor, k: int, draws: Draws, restarts: int = 4, iterations: int = 50) -> Tensor:
    """Centres (k,C) of the best of several runs of scikit-learn's k-means, started by k-means++.

    Args:
        points: (P,C) float.
        k: number of clusters; with fewer points, the number of points.
        draws: the random numbers of one video; the same draws give the same centres.
        restarts, iterations: number of runs, and the most iterations of each.
    """
    seed = int(draws.uniform(1) * 2**24)  # a float32 has 24 random bits
    clusters = cluster.KMeans(min(k, len(points)), n_init=restarts, max_iter=iterations, tol=0, random_state=seed)
    with warnings.catch_warnings():  # scikit-learn warns about a picture with fewer colours than k
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres: Tensor = torch.from_numpy(clusters.fit(points.numpy()).cluster_centers_)
    return centres


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances (P,k) of points (P,C) to centres (k,C)."""
    return (points**2).sum(1, keepdim=True) - 2 * points @ centres.T + (centres**2).sum(1)
