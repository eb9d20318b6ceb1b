"""A slot predictor with one token for each object: its own past, from which its motion is read directly."""

from __future__ import annotations

import torch
from torch import Tensor

from dias_video.draws import Dropout
from slotformer.rollouter import Dynamics, key_bias

CHANGES = 4.0  # factor of changes in a token; slots change little from frame to frame


class ObjectFormer(Dynamics):
    """Objects attend to each other; an object's token is made of its slots in all frames of the sliding window.

    SlotFormer has a token for every slot of every frame, and finds by attention which of them are the same object.
    Slots that are tracked need no such search. A token is a linear map of an object's last slot and of its changes
    from frame to frame, so motion is at hand, and a step has ``burn_in`` times fewer tokens. Before an object was
    there, it counts as standing still. All else is as in :class:`slotformer.rollouter.SlotFormer`.
    """

    @property
    def token_dim(self) -> int:
        """Number of values of which a token is made: those of ``burn_in`` slots."""
        return self.burn_in * self.slot_dim

    def predict(self, slots: Tensor, live: Tensor, steps: int, drop: Dropout | None = None) -> Tensor:
        """See :class:`slotformer.rollouter.Dynamics`."""
        both = live[:, 1:] & live[:, :-1]
        changes = torch.diff(slots, dim=1) * both[..., None]  # (B,T-1,S,D)
        missing = self.burn_in - slots.shape[1]
        changes = torch.cat([changes.new_zeros(len(slots), missing, *slots.shape[2:]), changes], 1)
        bias = key_bias(live[:, -1], slots.dtype)  # (B,1,1,S)
        last, predicted = slots[:, -1], []
        for _ in range(steps):
            past = torch.cat([last[:, None], CHANGES * changes], 1)  # (B,burn_in,S,D)
            tokens = self.in_proj(past.transpose(1, 2).flatten(2))  # (B,S,E)
            for block in self.blocks:
                tokens = block(tokens, tokens, bias, drop)
            change = self.out_proj(tokens)
            following = last + change if self.residual else change
            changes = torch.cat([changes, (following - last)[:, None]], 1)[:, 1:]
            predicted.append(following)
            last = following
        return torch.stack(predicted, 1)
