"""Sizes on which the parts of a model have to agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dias_video.model.encoders import Encoder
from dias_video.model.objectives import FeatureObjective
from dias_video.pretrained.configured import path_of


def check_sizes(encoder: Encoder, config: Mapping[str, Any]) -> None:
    """Compare the widths and grids with which the parts of a DIAS were made, in its ``config``.

    Raises:
        ValueError: they differ; the message names the option.
    """
    (h, w), projection = encoder.grid, config["projection"]
    as_encoder = {"feature_dim": encoder.feature_dim, "grid": [h, w], "num_tokens": h * w}
    wanted = {name: (value, f"the encoder's; sizes.{name} sets it everywhere") for name, value in as_encoder.items()}
    wanted["slot_dim"] = config["initializer"]["slot_dim"], "the initializer's; sizes.slot_dim sets it everywhere"
    wanted["token_dim"] = projection.get("out_dim", projection.get("feature_dim")), "the projection's out_dim"
    parts = {name: config[name] for name in ("projection", "initializer", "transition", "decoder")}
    objective = config.get("objective")
    if objective is not None and objective["type"] != path_of(FeatureObjective):
        parts["decoder"] = parts["decoder"] | {"feature_dim": None}  # the decoder's tokens are no features
    parts["aggregator.attention"] = config["aggregator"]["attention"]
    for part, options in parts.items():
        for name, size in options.items():
            right, whose = wanted.get(name, (size, ""))
            if size not in (None, right):
                raise ValueError(f"model.{part}.{name} is {size} and must be {right} like {whose}")
