"""What earlier versions wrote, as this one reads it. Nothing else in the project knows earlier forms of configs."""

from __future__ import annotations

from typing import Any

from dias_video.pretrained.configured import Configured, path_of

# Classes that format 1 knew by their bare names, and headers of slot caches by where they lay: where they lie now.
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
# Arguments that are gone, by class, and the value at which nothing is lost.
REMOVED: dict[str, dict[str, Any]] = {
    "DIAS": {"normalize_targets": False, "similarity_temperature": None},
    "Merging": {"linkage": "complete"},
}
REMOVED["Aggregator"] = REMOVED["Merging"]
IGNORED = ("limit",)  # how many videos a source took: videos are found again by their ids
# What the aggregator knew of merging, before that became a part of it: names then and now.
MERGING = {"merge_threshold": "threshold", "skip_merging": "skip", "merge_warmup": "warmup"}
MERGING["rehearsal_threshold"] = "rehearsal_threshold"

# Options of tiny models that stood in the paper's classes, at the value of these, and the classes that have them now.
REFINED: dict[str, tuple[str, dict[str, Any]]] = {
    "Projection": ("PlacedProjection", {"grid": None, "residual": False, "place": 0.0}),
    "SlotAttention": ("ClusteringAttention", {"sharpness": None}),
    "Transition": ("RememberingTransition", {"memory": 0.0}),
    "BoxInitializer": ("LookingBoxInitializer", {"grid": None}),
}


def upgraded(config: Any) -> Any:
    """A config of any time as of now, also of format 1 (``type`` without a module) and with ``_target_`` (of a cache).

    Raises:
        ValueError: an argument that is gone and had another value than it always has now.
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
    if name == "DIAS" and arguments.get("objective") is None:  # no argument of before; None is the same one
        arguments["objective"] = {"type": "dias_video.model.objectives.FeatureObjective"}
    if name == "TimmEncoder":  # frames went straight to the network's size, clamped where they were smoothed
        arguments = {"antialias": True, "clamp": arguments.get("antialias", True), "frame_size": None, **arguments}
    return {"type": stored, **arguments}
