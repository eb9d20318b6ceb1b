"""Converts the released SlotFormer checkpoints (facts of the repository pairlab/SlotFormer).

The released models predict slots without normalisation, so mean 0 and scale 1 are used here. Their frozen image decoder
and tokenizer have no counterpart here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dias_video.convert.foreign import adopt
from slotformer.rollouter import SlotFormer

_LAYER = r"rollouter\.transformer_encoder\.layers\.(\d+)\."

RULES = (
    (r"rollouter\.(in_proj|out_proj)\.(.+)", r"\1.\2"),
    (_LAYER + r"self_attn\.in_proj_(.+)", r"blocks.\1.qkv.\2"),
    (_LAYER + r"self_attn\.out_proj\.(.+)", r"blocks.\1.out.\2"),
    (_LAYER + r"(norm[12]\..+)", r"blocks.\1.\2"),
    (_LAYER + r"linear1\.(.+)", r"blocks.\1.ffn.0.\2"),
    (_LAYER + r"linear2\.(.+)", r"blocks.\1.ffn.2.\2"),
)
SINE = "rollouter.enc_t_pe"


def adopt_released(model: SlotFormer, tensors: Mapping[str, Tensor]) -> list[str]:
    """Load a released SlotFormer checkpoint's tensors into ``model``.

    Returns:
        A sentence for each tensor of either side that was not matched.
    """
    # Both compute sine positions, so these are not weights. If they differ, they stay on the list.
    same = SINE in tensors and tensors[SINE].shape[1:] == model.positions.shape
    if same and torch.allclose(tensors[SINE][0], model.positions, atol=1e-5):
        tensors = {name: value for name, value in tensors.items() if name != SINE}
    return adopt(model, tensors, RULES)
