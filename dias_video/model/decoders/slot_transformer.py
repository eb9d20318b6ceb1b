"""The Transformer that several decoders share: tokens attend to slots."""

from __future__ import annotations

from torch import Tensor, nn

from dias_video.model.layers import MLP, CrossAttention, LayerNorm, SelfAttention


class DecoderLayer(nn.Module):
    """Pre-norm Transformer decoder layer without bias: self-attention, cross-attention to slots, MLP.

    ``first``: the input is normalised already, so there is no norm before self-attention.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, first: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if first else LayerNorm(width, bias=False)
        self.self_attention = SelfAttention(width, num_heads)
        self.norm2 = LayerNorm(width, bias=False)
        self.cross_attention = CrossAttention(width, num_heads)
        self.norm3 = LayerNorm(width, bias=False)
        self.mlp = MLP(width, mlp_ratio * width, bias=False)

    def forward(
        self, x: Tensor, memory: Tensor, live: Tensor, keys: Tensor | None, causal: bool, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x (F,N,width) and slots ``memory`` (F,S,width) to x and, with ``weights``, attention (F,N,S)."""
        x = x + self.self_attention(self.norm1(x), keys, causal)
        update, attention = self.cross_attention(self.norm2(x), memory, live, weights)
        x = x + update
        return x + self.mlp(self.norm3(x)), attention


class SlotTransformer(nn.Module):
    """Decoder layers in which tokens (F,N,width) attend to projected slots.

    A_d is the attention of the last layer, averaged over heads. ``direct``: slots have the width of the layers and are
    not projected.
    """

    def __init__(
        self,
        slot_dim: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: int,
        direct: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        projected = nn.Sequential(nn.Linear(slot_dim, width, bias=False), LayerNorm(width))
        self.project_slots = nn.Identity() if direct else projected
        self.norm = LayerNorm(width, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(width, num_heads, mlp_ratio, i == 0) for i in range(num_layers))

    def forward(
        self, x: Tensor, slots: Tensor, live: Tensor, keys: Tensor | None = None, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tokens (F,N,width) and attention A_d (F,N,S), from tokens ``x`` (F,N,width) and slots (F,S,D)."""
        memory = self.project_slots(slots)
        x = self.norm(x)
        attention = None
        for i, layer in enumerate(self.layers):
            x, attention = layer(x, memory, live, keys, causal, weights=i == len(self.layers) - 1)
        assert attention is not None
        return x, attention
