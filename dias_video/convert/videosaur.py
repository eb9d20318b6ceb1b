"""Converts VideoSAUR's and SlotContrast's released checkpoints (facts of martius-lab/videosaur and /slotcontrast).

Both share a code base. The shapes in a checkpoint determine nearly all sizes. All else is equal in every published
configuration: 3 iterations on the first frame and 2 on later ones, 4 heads, frames resized bicubically without
antialiasing and clamped, ImageNet's mean and deviation, and slots that are never merged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from dias_video.convert.foreign import adopt
from dias_video.model.aggregator import Aggregator
from dias_video.model.corrector import Corrector
from dias_video.model.decoders.mlp import MLPDecoder
from dias_video.model.decoders.slot_mixer import SlotMixerDecoder
from dias_video.model.dias import DIAS
from dias_video.model.encoders import TimmEncoder
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.learned_initializer import LearnedInitializer
from dias_video.model.predictor import Predictor
from dias_video.model.relu_projection import ReLUProjection

BACKBONES = {  # by width, patch, and whether it has LayerScale
    (384, 14, True): "vit_small_patch14_dinov2.lvd142m",
    (768, 14, True): "vit_base_patch14_dinov2.lvd142m",
    (768, 16, False): "vit_base_patch16_224.dino",
    (768, 8, False): "vit_base_patch8_224.dino",
}

_ENCODER, _CORRECTOR, _DECODER = r"encoder\.module\.", r"processor\.module\.corrector\.", r"decoder\.module\."


def _block(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules of a Transformer layer."""
    return (
        (theirs + r"\.(?P<rest>norm[12]\..+)", ours + r".\g<rest>"),
        (theirs + r"\.self_attn\.qkv\.(?P<rest>.+)", ours + r".q.\g<rest>+" + ours + r".kv.\g<rest>"),
        (theirs + r"\.self_attn\.out_proj\.(?P<rest>.+)", ours + r".out.\g<rest>"),
        (theirs + r"\.linear1\.(?P<rest>.+)", ours + r".mlp.0.\g<rest>"),
        (theirs + r"\.linear2\.(?P<rest>.+)", ours + r".mlp.2.\g<rest>"),
    )


RULES = (
    (_ENCODER + r"backbone\.model\.(.+)", r"encoder.vit.\1"),
    (_ENCODER + r"output_transform\.layers\.0\.(.+)", r"projection.norm.\1"),
    (_ENCODER + r"output_transform\.layers\.1\.(.+)", r"projection.mlp.0.\1"),
    (_ENCODER + r"output_transform\.layers\.3\.(.+)", r"projection.mlp.2.\1"),
    (r"initializer\.(slots|mean|log_std)", r"initializer.\1"),
    (_CORRECTOR + r"norm_features\.(.+)", r"aggregator.attention.norm_tokens.\1"),
    (_CORRECTOR + r"to_q\.(.+)", r"aggregator.attention.query.\1"),
    (_CORRECTOR + r"to_k\.(.+)", r"aggregator.attention.key.\1"),
    (_CORRECTOR + r"to_v\.(.+)", r"aggregator.attention.value.\1"),
    (_CORRECTOR + r"((?:norm_slots|gru)\..+)", r"aggregator.attention.\1"),
    (_CORRECTOR + r"mlp\.layers\.0\.(.+)", r"aggregator.attention.norm_mlp.\1"),
    (_CORRECTOR + r"mlp\.layers\.1\.(.+)", r"aggregator.attention.mlp.0.\1"),
    (_CORRECTOR + r"mlp\.layers\.3\.(.+)", r"aggregator.attention.mlp.2.\1"),
    *_block(r"processor\.module\.predictor\.blocks\.0", "transition.block"),
    (_DECODER + "pos_emb", "decoder.positions"),
    (_DECODER + r"mlp\.layers\.0\.(.+)", r"decoder.mlp.0.0.\1"),
    (_DECODER + r"mlp\.layers\.2\.(.+)", r"decoder.mlp.1.0.\1"),
    (_DECODER + r"mlp\.layers\.4\.(.+)", r"decoder.mlp.2.0.\1"),
    (_DECODER + r"mlp\.layers\.6\.(.+)", r"decoder.mlp.3.\1"),
    (_DECODER + r"norm_memory\.(.+)", r"decoder.norm_memory.\1"),
    *_block(_DECODER + r"allocator\.blocks\.(?P<i>\d+)", r"decoder.allocate.\g<i>"),
    (_DECODER + r"norm_q\.(.+)", r"decoder.norm_query.\1"),
    (_DECODER + r"norm_k\.(.+)", r"decoder.norm_key.\1"),
    (_DECODER + r"to_q\.(.+)", r"decoder.query.\1"),
    (_DECODER + r"to_k\.(.+)", r"decoder.key.\1"),
    (_DECODER + r"renderer\.layers\.(.+)", r"decoder.render.\1"),
    (_DECODER + r"output_transform\.(.+)", r"decoder.output.\1"),
)


def is_videosaur(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a VideoSAUR or SlotContrast checkpoint."""
    return "processor.module.corrector.to_q.weight" in tensors


@torch.no_grad()
def convert_videosaur(tensors: Mapping[str, Tensor], num_slots: int | None = None) -> DIAS:
    """The model of a released checkpoint; in evaluation it computes the same as the original.

    Args:
        tensors: tensors by their names in the checkpoint.
        num_slots: number of slots, which VideoSAUR's checkpoints don't tell: 7 for YouTube-VIS, 11 for MOVi-C, 15 for
            MOVi-E. The models for MOVi predict similarities but no features; in the converted decoder the features are
            constant 0.

    Raises:
        ValueError: ``num_slots`` is missing, or the checkpoint has another architecture than the released ones.
    """
    try:
        model = _architecture(tensors, num_slots)
    except KeyError as missing:
        raise ValueError(
            f"the checkpoint is none of VideoSAUR's or SlotContrast's: it has no {missing.args[0]}"
        ) from None
    tensors, grid = dict(tensors), model.encoder.grid
    positions = "encoder.module.backbone.model.pos_embed"
    if tensors[positions].shape[1] != 1 + math.prod(grid):  # the original resamples them at every call
        tensors[positions] = resample_abs_pos_embed(tensors[positions], list(grid))
    for name in ("decoder.module.output_transform.weight", "decoder.module.output_transform.bias"):
        if name in tensors and len(tensors[name]) == math.prod(grid):
            features = tensors[name].new_zeros(model.encoder.feature_dim, *tensors[name].shape[1:])
            tensors[name] = torch.cat([features, tensors[name]])
    if leftover := adopt(model, tensors, RULES):
        shown = "; ".join(leftover[:3])
        raise ValueError(f"the checkpoint is of another architecture than the released ones: {shown}")
    return model.eval()


def _architecture(tensors: Mapping[str, Tensor], num_slots: int | None) -> DIAS:
    """The model of these shapes, with random weights."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(tensors[name].shape)

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in tensors)

    width, _, patch, _ = shape("encoder.module.backbone.model.patch_embed.proj.weight")
    layer_scale = "encoder.module.backbone.model.blocks.0.ls1.gamma" in tensors
    num_tokens = shape("decoder.module.pos_emb")[-2]
    side = math.isqrt(num_tokens)
    if (width, patch, layer_scale) not in BACKBONES or side**2 != num_tokens:
        raise ValueError(f"no released checkpoint has patches of {patch} px, width {width} and {num_tokens} tokens")
    token_dim, hidden = shape("encoder.module.output_transform.layers.3.weight")
    slot_dim = shape("processor.module.corrector.to_q.weight")[1]
    mlp_ratio = 4 if "processor.module.corrector.mlp.layers.1.weight" in tensors else 0
    initializer: LearnedInitializer | GaussianInitializer
    if "initializer.slots" in tensors:
        initializer = LearnedInitializer(shape("initializer.slots")[-2], slot_dim)
    elif num_slots is None:
        raise ValueError(
            "VideoSAUR's checkpoints don't tell the number of slots; add num_slots=7 for YouTube-VIS, 11 for MOVi-C or "
            "15 for MOVi-E"
        )
    else:
        initializer = GaussianInitializer(num_slots, slot_dim)
    decoder: MLPDecoder | SlotMixerDecoder
    if "decoder.module.to_q.weight" in tensors:
        decoder = SlotMixerDecoder(
            width + num_tokens,
            slot_dim,
            num_tokens,
            num_layers=count("decoder.module.allocator.blocks.", ".norm1.weight"),
            hidden=shape("decoder.module.renderer.layers.0.weight")[0],
            render_layers=count("decoder.module.renderer.layers.", ".weight"),
        )
    else:
        decoder = MLPDecoder(width, slot_dim, num_tokens, hidden=shape("decoder.module.mlp.layers.0.weight")[0])
    return DIAS(
        TimmEncoder(
            BACKBONES[width, patch, layer_scale], "random", (side * patch, side * patch), clamp=True, frame_size=None
        ),
        ReLUProjection(width, hidden, token_dim),
        initializer,
        Aggregator(Corrector(slot_dim, token_dim, mlp_ratio), None, reinitialize=False),
        Predictor(slot_dim),
        decoder,
        carry="persist",
        teacher=None,
    )
