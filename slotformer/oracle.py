"""The oracle of a rollout report: the true future, encoded by someone who did not see the past.

The model that made the slots starts anew on the last observed frame, from that frame's boxes or with other query noise,
and encodes the true frames that follow. What its slots differ by from the cached ones is what of a slot the frames do
not determine: it comes from how the encoder got there. A predictor that knew the future of the world exactly, and how
it looks, would still be wrong by about as much, so this is a floor to compare error curves with, not a rival: it is
shown the future and which slot is which. It is no strict bound: a predictor sees the past, which helps it most on the
first steps. An object that the new start misses counts as a slot of zeros.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def same_objects(again: Tensor, encoded: Tensor, scored: Tensor) -> Tensor:
    """Put the slots of a second encoding into the places of the first.

    Args:
        again: (R,Z,D), zeros where dead; Z may differ from S.
        encoded: (R,S,D).
        scored: (R,S) bool; the rest of ``encoded`` does not matter.

    Returns:
        (R,S,D): one-to-one over the whole clip, with the least squared distance; zeros for what has no partner.
    """
    difference = (encoded[:, :, None].double() - again[:, None].double()).square().sum(-1)  # (R,S,Z)
    cost = (difference * scored[..., None]).sum(0)  # (S,Z)
    places, partners = linear_sum_assignment(cost.numpy())
    ordered = torch.zeros_like(encoded)
    ordered[:, places] = again[:, partners].to(encoded.dtype)
    return ordered
