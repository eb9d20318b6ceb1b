"""Converts configs that earlier versions wrote. No other module knows earlier forms of configs."""

from __future__ import annotations

from typing import Any

from dias_video.pretrained.configured import Configured, path_of

# The present modules of classes that format 1 named without a module, and headers of slot caches with an older one.
_LIE_IN = {
    "dias_video.model.dias": "DIAS",
    "dias_video.model.projection": "Projection",
    "dias_video.model.attention": "SlotAttention",
    "dias_video.model.aggregator": "Aggregator",
    "dias_video.model.initializers": "GaussianInitializer BoxInitializer",
    "dias_video.model.encoders": "TimmEncoder",
    "dias_video.model.tiny_encoder": "TinyEncoder",
    "dias_video.model.transition": "Transition",
    "dias_video.model.decoders.random_ar": "RandomARDecoder",
    "dias_video.model.decoders.causal": "CausalDecoder",
    "dias_video.model.decoders.mlp": "MLPDecoder",
    "dias_video.model.decoders.slot_mixer": "SlotMixerDecoder",
    "dias_video.model.distillation": "Distillation",
    "slotformer.rollouter": "SlotFormer",
    "slotformer.causal": "CausalSlotFormer",
    "dias_video.data.davis": "DavisVideos",
    "dias_video.data.folder": "FolderVideos",
    "dias_video.data.images": "ImageFolder",
    "dias_video.data.movi": "MoviVideos",
    "dias_video.data.physion": "PhysionVideos",
    "dias_video.data.simulated": "SimulatedVideos",
    "dias_video.data.ytvis": "YouTubeVIS",
    "dias_video.data.transforms": "ClipTransform",
}
PLACES = {name: f"{module}.{name}" for module, names in _LIE_IN.items() for name in names.split()}
PLACES["AnnotatedImages"] = "dias_video.data.coco.CocoImages"
# Arguments that were removed, by class, with the only value that is still possible.
REMOVED: dict[str, dict[str, Any]] = {
    "DIAS": {"normalize_targets": False, "similarity_temperature": None},
    "Merging": {"linkage": "complete"},
    "RandomARDecoder": {"out_dim": None},
}
REMOVED["Aggregator"] = REMOVED["Merging"]
TRAINING_ALONE = {"DIAS": "contrast_temperature", "BoxInitializer": "box_dropout"}  # removed, of use in training alone
IGNORED = ("limit",)  # number of videos of a source; not needed, since videos are found by their ids
# Arguments of merging that the aggregator had before merging became a class: names then and now.
MERGING = {"merge_threshold": "threshold", "skip_merging": "skip", "merge_warmup": "warmup"}
MERGING["rehearsal_threshold"] = "rehearsal_threshold"

# Options of tiny models that the paper's classes had: the value that these classes have, and the class for others.
REFINED: dict[str, tuple[str, dict[str, Any]]] = {
    "Projection": ("PlacedProjection", {"grid": None, "residual": False, "place": 0.0}),
    "SlotAttention": ("ClusteringAttention", {"sharpness": None}),
    "Transition": ("RememberingTransition", {"memory": 0.0}),
    "BoxInitializer": ("LookingBoxInitializer", {"grid": None}),
}


def upgraded(config: Any) -> Any:
    """A config of any earlier version in the present form.

    In format 1 ``type`` has no module; caches had ``_target_`` instead.

    Raises:
        ValueError: an argument that was removed has a value that is no longer possible.
    """
    if isinstance(config, list):
        return [upgraded(value) for value in config]
    if not isinstance(config, dict):
        return config
    arguments = {key: upgraded(value) for key, value in config.items() if key not in ("type", "_target_")}
    stored = config.get("type", config.get("_target_"))
    if stored is None:
        return arguments
    module, _, name = str(stored).rpartition(".")
    if name in PLACES and module.partition(".")[0] in ("", "dias_video", "slotformer"):
        stored = PLACES[name]
    elif not module and name in Configured.known:
        stored = path_of(Configured.known[name])
    for key, value in REMOVED.get(name, {}).items():
        if arguments.pop(key, value) != value:
            raise ValueError(f"{name} has no {key} any more, and here it is {config[key]!r}; use an earlier version")
    if name in REFINED and stored == PLACES[name]:
        refined, usual = REFINED[name]
        if all(arguments.get(key, value) == value for key, value in usual.items()):
            arguments = {key: value for key, value in arguments.items() if key not in usual}
        else:
            stored = f"dias_video.model.tiny.{refined}"
    if ".data." in str(stored):
        arguments = {key: value for key, value in arguments.items() if key not in IGNORED}
    if name == "Aggregator" and "merge_threshold" in arguments:
        merging = {now: arguments.pop(then) for then, now in MERGING.items() if then in arguments}
        kind = {"type": "dias_video.model.reduction.Merging"}
        arguments["reduction"] = None if merging["threshold"] is None else kind | merging
    if name == "DIAS" and arguments.get("objective") is None:  # earlier versions had no such argument; None is the same
        arguments["objective"] = {"type": "dias_video.model.objectives.FeatureObjective"}
    arguments.pop(TRAINING_ALONE.get(str(stored).rpartition(".")[2], ""), None)
    if name == "TimmEncoder":  # frames were resized only once, and clamped if antialiased
        arguments = {"antialias": True, "clamp": arguments.get("antialias", True), "frame_size": None, **arguments}
    return {"type": stored, **arguments}
