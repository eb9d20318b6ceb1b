"""Converts the DIAS authors' released image checkpoints (facts of their repository, Genera1Z/DIAS).

Their modules compute the same as those of this project, with four differences:

- their image model has neither redundancy reduction nor re-initialisation (``reduction: null``,
  ``reinitialize: false``);
- its frames are resized without antialiasing (``antialias: false``);
- in training its short known prefix has int(0.1 N) - 1 tokens, here int(0.1 N), and its long one is drawn from 0..N-2,
  here from 0..N-1;
- it never masks a slot.

``configs/model/released_image.yaml`` is set accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dias_video.convert.foreign import adopt
from dias_video.model.dias import DIAS

_LAYER, _OWN = r"decode\.backbone\.layers\.(\d+)\.", r"decoder.transformer.layers.\1."

RULES = (
    (r"encode_backbone\.1\.(.+)", r"encoder.vit.\1"),  # number 0 is the resizing, which has no weights
    (r"encode_project\.0\.(.+)", r"projection.norm.\1"),
    (r"encode_project\.1\.(.+)", r"projection.hidden.\1"),
    (r"encode_project\.[34]\.(.+)", r"projection.out.\1"),  # number 4 where dropout comes before it
    (r"initializ\.mean", "initializer.mean"),
    (r"initializ\.logstd", "initializer.log_std"),
    (r"aggregat\.norm1q\.(.+)", r"aggregator.attention.norm_slots.\1"),
    (r"aggregat\.proj_q\.(.+)", r"aggregator.attention.query.\1"),
    (r"aggregat\.norm1kv\.(.+)", r"aggregator.attention.norm_tokens.\1"),
    (r"aggregat\.proj_k\.(.+)", r"aggregator.attention.key.\1"),
    (r"aggregat\.proj_v\.(.+)", r"aggregator.attention.value.\1"),
    (r"aggregat\.rnn\.(.+)", r"aggregator.attention.gru.\1"),
    (r"aggregat\.norm2\.(.+)", r"aggregator.attention.norm_mlp.\1"),
    (r"aggregat\.ffn\.0\.(.+)", r"aggregator.attention.mlp.0.\1"),
    (r"aggregat\.ffn\.[23]\.(.+)", r"aggregator.attention.mlp.2.\1"),
    (r"decode\.mask_token", "decoder.mask_token"),
    (r"decode\.posit_embed\._?pe", "decoder.positions"),
    (r"decode\.project1\.(.+)", r"decoder.project_tokens.\1"),
    (r"decode\.project2\.(.+)", r"decoder.transformer.project_slots.\1"),
    (r"decode\.norm0\.(.+)", r"decoder.transformer.norm.\1"),
    (_LAYER + r"(norm[123]\..+)", _OWN + r"\2"),
    (_LAYER + r"self_attn\.in_proj_weight", _OWN + "self_attention.qkv.weight"),
    (_LAYER + r"self_attn\.out_proj\.(.+)", _OWN + r"self_attention.out.\2"),
    (
        _LAYER + r"multihead_attn\.in_proj_weight",
        _OWN + "cross_attention.q.weight+" + _OWN + "cross_attention.kv.weight",
    ),
    (_LAYER + r"multihead_attn\.out_proj\.(.+)", _OWN + r"cross_attention.out.\2"),
    (_LAYER + r"linear1\.(.+)", _OWN + r"mlp.0.\2"),
    (_LAYER + r"linear2\.(.+)", _OWN + r"mlp.2.\2"),
    (r"decode\.readout\.(.+)", r"decoder.readout.\1"),
)


def adopt_released(model: DIAS, tensors: Mapping[str, Tensor]) -> list[str]:
    """Load a released DIAS checkpoint's tensors into ``model``.

    Returns:
        A sentence for each tensor of either side that was not matched. Those of the transition are always among them,
        since an image model has none.
    """
    return adopt(model, tensors, RULES)
