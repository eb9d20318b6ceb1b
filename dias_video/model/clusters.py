"""k-means, for baselines and for slots that begin as clusters."""

from __future__ import annotations

import warnings

import torch
from sklearn import cluster
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from dias_video.draws import Draws


def kmeans(points: Tensor, k: int, draws: Draws, restarts: int = 4, iterations: int = 50) -> Tensor:
    """Centres (k,C) of the tightest of several runs of scikit-learn's k-means, from k-means++ starts.

    Args:
        points: (P,C) float.
        k: clusters; as many as there are points if that is less.
        draws: of one video; the same draws give the same centres.
        restarts, iterations: how often to start, and how long to go on at most.
    """
    seed = int(draws.uniform(1) * 2**24)  # all the bits that such a number has
    clusters = cluster.KMeans(min(k, len(points)), n_init=restarts, max_iter=iterations, tol=0, random_state=seed)
    with warnings.catch_warnings():  # of a picture with fewer colours than k
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres: Tensor = torch.from_numpy(clusters.fit(points.numpy()).cluster_centers_)
    return centres


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """(P,C) and (k,C) to (P,k)."""
    return (points**2).sum(1, keepdim=True) - 2 * points @ centres.T + (centres**2).sum(1)
