"""Slot Attention (paper eq. 1-2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dias_video.model.layers import MLP, masked_softmax, zero_biases
from dias_video.pretrained.configured import Configured


class SlotAttention(Configured, nn.Module):
    """phi_a of eq. 1 (Locatello et al. 2020): slots compete for tokens, a GRU and an MLP update them.

    LayerNorm on queries and on tokens, q/k/v without bias, softmax over slots, weights normalised over tokens with
    epsilon 1e-5: parameter by parameter the authors' released layout.

    ``sharpness`` sets the initial weights so that slots begin as clusters do: logits are ``sharpness`` times the cosine
    similarity of (normalised) slot and token, and a slot moves towards the mean of its tokens. None is the usual
    initialisation, whose first attention is almost uniform; small models take long to leave that state.
    """

    EPSILON = 1e-5

    def __init__(self, slot_dim: int, token_dim: int, mlp_ratio: int = 4, sharpness: float | None = None) -> None:
        super().__init__()
        self.norm_tokens = nn.LayerNorm(token_dim)
        self.key = nn.Linear(token_dim, slot_dim, bias=False)
        self.value = nn.Linear(token_dim, slot_dim, bias=False)
        self.norm_slots = nn.LayerNorm(slot_dim)
        self.query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.norm_mlp = nn.LayerNorm(slot_dim)
        self.mlp = MLP(slot_dim, mlp_ratio * slot_dim)
        zero_biases(self)
        if sharpness is not None:
            self._begin_as_clustering(sharpness)

    @torch.no_grad()
    def _begin_as_clustering(self, sharpness: float) -> None:
        dim = self.query.in_features
        if self.key.in_features != dim:
            raise ValueError(f"sharpness compares slots with tokens: slot_dim {dim} must be {self.key.in_features}")
        nn.init.orthogonal_(self.query.weight, gain=(sharpness / dim**0.5) ** 0.5)
        self.key.weight.copy_(self.query.weight)
        nn.init.eye_(self.value.weight)
        _, keep, new = self.gru.weight_ih.split(dim)  # of the GRU's gates: reset, keep the old state, new state
        nn.init.zeros_(keep)
        new.copy_(0.5 * torch.eye(dim))
        _, keep, new = self.gru.weight_hh.split(dim)
        nn.init.zeros_(keep)
        nn.init.zeros_(new)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)
        nn.init.constant_(self.gru.bias_ih[dim : 2 * dim], 1.0)
        self.mlp.begin_at_zero()

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project tokens (...,N,C) to keys and values (...,N,D); once for all frames and iterations."""
        tokens = self.norm_tokens(tokens)
        return self.key(tokens), self.value(tokens)

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration: S^i, A^i = phi_a(S^(i-1), Z, M) (eq. 1, 10).

        Args:
            slots: (B,S,D) queries.
            keys, values: (B,N,D).
            live: (B,S) bool; a slot that is off gets exactly zero attention and comes out as zeros.

        Returns:
            Slots (B,S,D) and attention (B,S,N), which sums to 1 over the live slots of each token.
        """
        attention = self.shares(self.norm_slots(slots), keys, live)
        weights = attention / (attention.sum(-1, keepdim=True) + self.EPSILON)
        updated = self.recur(weights.to(values.dtype) @ values, slots)
        updated = updated + self.mlp(self.norm_mlp(updated))
        return updated * live[..., None], attention

    def shares(self, normed: Tensor, keys: Tensor, live: Tensor) -> Tensor:
        """Attention (B,S,N) of normalised slots (B,S,D) to keys (B,N,D): softmax over the live slots."""
        queries = self.query(normed)
        logits = queries * queries.shape[-1] ** -0.5 @ keys.transpose(1, 2)  # (B,S,N)
        return masked_softmax(logits, live[..., None], dim=1)

    def recur(self, updates: Tensor, state: Tensor) -> Tensor:
        """One step of the GRU for every slot, (B,S,D) twice to (B,S,D)."""
        return self.gru(updates.flatten(0, 1), state.flatten(0, 1).to(updates.dtype)).view_as(state)
