"""Slot Attention (paper eq. 1-2)."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.model.layers import MLP, LayerNorm, masked_softmax, zero_biases
from dias_video.pretrained.configured import Configured


class SlotAttention(Configured, nn.Module):
    """phi_a of eq. 1 (Locatello et al. 2020): slots compete for tokens, a GRU and an MLP update them.

    LayerNorm on queries and on tokens, q/k/v without bias, softmax over slots, weights normalised over tokens with
    epsilon 1e-5. The parameters have the layout of the authors' released code.
    """

    EPSILON = 1e-5

    def __init__(self, slot_dim: int, token_dim: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm_tokens = LayerNorm(token_dim)
        self.key = nn.Linear(token_dim, slot_dim, bias=False)
        self.value = nn.Linear(token_dim, slot_dim, bias=False)
        self.norm_slots = LayerNorm(slot_dim)
        self.query = nn.Linear(slot_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.norm_mlp = LayerNorm(slot_dim)
        self.mlp = MLP(slot_dim, mlp_ratio * slot_dim)
        zero_biases(self)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (...,N,D) of tokens (...,N,C), computed once for all frames and iterations."""
        tokens = self.norm_tokens(tokens)
        return self.key(tokens), self.value(tokens)

    def forward(self, slots: Tensor, keys: Tensor, values: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration: S^i, A^i = phi_a(S^(i-1), Z, M) (eq. 1, 10).

        Args:
            slots: (B,S,D) queries.
            keys, values: (B,N,D).
            live: (B,S) bool; a slot that is off has zero attention, and its new value is zero.

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
        """One step of the GRU for every slot: ``updates`` and ``state`` (B,S,D) to a new state (B,S,D)."""
        return self.gru(updates.flatten(0, 1), state.flatten(0, 1).to(updates.dtype)).view_as(state)
