"""A whole evaluation: scores a trained model, or files of any program, and two baselines; writes result files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dias_video.auto.backbone import Backbone
from dias_video.auto.track import Tracker
from dias_video.checks import Count
from dias_video.data.chosen import places
from dias_video.data.features import cached_features
from dias_video.data.source import VideoSource, has_boxes
from dias_video.data.transforms import Transform
from dias_video.evaluation.baselines import FixedBoxes, KMeans
from dias_video.evaluation.look import write_extremes
from dias_video.evaluation.methods import Method, ModelTracks, PredictionFiles
from dias_video.evaluation.own import OwnKMeans, OwnTracks
from dias_video.evaluation.protocols import PROTOCOLS, Measure
from dias_video.evaluation.results import MAIN, METRICS, Setting, write_results
from dias_video.evaluation.scoring import Videos, score_methods
from dias_video.evaluation.splits import certify
from dias_video.machine.precision import check_precision
from dias_video.machine.ranks import Ranks, joined
from dias_video.model.dias import DIAS, MASK_SOURCES
from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.stores.files import check_new

BASELINES = ("boxes_fixed", "kmeans")
METHODS = ("auto",)  # methods that need no checkpoint


def evaluate(
    *,
    source: VideoSource,
    out_dir: str | Path,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
    predictions: str | Path | None = None,
    method: str | None = None,
    encoder: Backbone | None = None,
    slots: Count | None = None,
    native_size: bool = False,
    transform: Transform | None = None,
    features: str | Path | None = None,
    protocols: Sequence[str] = tuple(PROTOCOLS),
    tracking: bool = True,
    measures: Mapping[str, Measure] | None = None,
    baselines: Sequence[str] = BASELINES,
    boxes: bool | None = None,
    rehearse: bool = False,
    mask_source: str | None = None,
    follow_edges: bool = False,
    max_videos: Count | None = None,
    max_frames: Count | None = None,
    frozen_split: str | None = None,
    report: int = 8,
    window: Count = 24,
    batch_size: Count = 4,
    seed: int = 0,
    num_workers: int = 0,
    precision: str = "fp32",
    device: str | None = None,
) -> dict[str, Any]:
    """Score a trained model, or prediction files, and two baselines on videos with masks.

    Under ``accelerate launch`` the processes share the videos. Give one of ``checkpoint``, ``predictions`` and
    ``method``.

    Args:
        source: the videos.
        out_dir: the folder for metrics.json, videos.csv and report.html.
        overwrite: replace existing results.
        checkpoint: a model's folder, or ``hf-hub:user/name`` or ``hf-hub:user/name@revision``.
        predictions: a folder of label maps (:class:`PredictionFiles`).
        method: ``auto`` makes a model for each video, with a rehearsal (``dias_video.auto``).
        encoder, slots: options of ``auto`` (``Tracker``).
        native_size: the predictions have the size of the videos on disk, and are scored at that size.
        transform: applied to every video (a resize); not with ``native_size``.
        features: folder of these videos' cached features; with ``auto`` those of the plain encoder. The encoder then
            does not run.
        protocols: names of ``PROTOCOLS``.
        tracking: also compute J&F and identity switches.
        measures: further measures by name, as functions of two label maps.
        baselines: names of ``BASELINES``. ``boxes_fixed`` needs boxes, ``kmeans`` needs a model. With ``auto``,
            ``kmeans_plain`` on features without whitening is added.
        boxes: give the first frame's boxes to the model and to the baselines; None: if the data has them and the model
            takes them (``auto`` gets none).
        rehearse: without boxes, go through the first window forwards and backwards before it is tracked.
        mask_source: where a checkpoint's model takes masks from, ``decoder`` or ``aggregation``; None: as stored.
        follow_edges: masks (also those of k-means) end where colours change in the frame.
        max_videos, max_frames: number of first videos, and of first frames of each; the result says so.
        frozen_split: refuse to score unless the data is this split (``dias_video.evaluation.splits``).
        report: number of videos on the page, the worst and the best by the first protocol's mBO; 0: no page.
        window: number of frames that are encoded at once.
        batch_size: number of videos of equal shape that are encoded at once.
        seed: with a video's id it determines the noise of queries.
        num_workers: number of processes that read videos.
        precision: the precision in which the model computes, fp32, bf16 or (on a GPU) fp16; the result says so.
        device: None = cuda if there is one.

    Returns:
        The content of metrics.json, on every process.

    Raises:
        ValueError: options don't fit each other, or a video can't be read; nothing is written then.
    """
    accelerator, ranks = joined(device), Ranks()
    with ranks.together():
        if unknown := [name for name in baselines if name not in BASELINES]:
            raise ValueError(f"unknown baseline {unknown[0]!r}; choose from {', '.join(BASELINES)}")
        if not protocols or any(name not in PROTOCOLS for name in protocols):
            raise ValueError(f"protocols={list(protocols)} must name some of {', '.join(PROTOCOLS)}")
        if sum(one is not None for one in (checkpoint, predictions, method)) != 1:
            raise ValueError(
                "say what to score by exactly one of checkpoint=<folder of a trained model>, "
                "predictions=<folder of maps> and method=auto"
            )
        if method is not None and method not in METHODS:
            raise ValueError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        if boxes and slots is not None:
            raise ValueError("slots= is for things that are to be found; leave it out with boxes=true")
        if method is None and slots is not None:
            raise ValueError("slots= is for method=auto; a trained model has the slots that it has")
        if Path(out_dir).exists() and not Path(out_dir).is_dir():
            raise ValueError(f"out_dir={out_dir} is a file; name a folder")
        checkpoint = None if checkpoint is None else pinned(checkpoint)
        certified = certify(source, frozen_split)
        if ranks.is_main:
            check_new(Path(out_dir) / METRICS, overwrite)
        check_precision(precision, device or accelerator.device)
        model = None if checkpoint is None else DIAS.from_pretrained(checkpoint).to(device or accelerator.device).eval()
        if mask_source is not None:
            if model is None:
                raise ValueError("mask_source= is for a trained model: give it with checkpoint=")
            if mask_source not in MASK_SOURCES:
                raise ValueError(f"unknown mask_source={mask_source}; choose from {', '.join(MASK_SOURCES)}")
            model.mask_source = mask_source
        if predictions is not None and features is not None:
            raise ValueError("features= is what a model looks at: give it with checkpoint=, not with predictions=")
        if predictions is not None and follow_edges:
            raise ValueError("follow_edges=true is for maps of a model: give it with checkpoint=, not predictions=")
        if predictions is None and native_size:
            raise ValueError("native_size=true is for maps of any size: give it with predictions=, not checkpoint=")
        looks: dict[str, Any] = {"window": window, "follow_edges": follow_edges, "precision": precision}
        if method is not None:
            where = device or str(accelerator.device)
            told = bool(boxes)
            own = OwnTracks(Tracker(encoder=encoder, slots=slots, device=where, seed=seed, **looks), told)
            stored = own.stored(features)
        else:
            stored = None if model is None else cached_features(features, model.frozen)
            told = (model is None or model.takes_boxes) and has_boxes(source) if boxes is None else boxes
        videos = Videos(source, None if native_size else transform, max_videos, max_frames, stored, told)
        if rehearse and (told or predictions is not None):
            raise ValueError("rehearse=true is for a model that is given no boxes; set boxes=false with it")
        methods: dict[str, Method] = {}
        if model is not None:
            methods[MAIN] = ModelTracks(model, told, window, seed, rehearse, follow_edges, precision)
        elif predictions is not None:
            methods[MAIN] = PredictionFiles(predictions)
        else:
            methods[MAIN] = own
            if "kmeans" in baselines:
                methods |= {"baselines/kmeans": OwnKMeans(own), "baselines/kmeans_plain": OwnKMeans(own, plain=True)}
        if "boxes_fixed" in baselines and told:
            methods["baselines/boxes_fixed"] = FixedBoxes()
        if "kmeans" in baselines and model is not None:
            methods["baselines/kmeans"] = KMeans(model.encoder, model.num_slots, told, seed, **looks)
        counted = [PROTOCOLS[name] for name in protocols]
    scores = score_methods(methods, videos, counted, tracking, num_workers, accelerator, batch_size, measures)
    with ranks.together():
        whole, indices = places(source)
        described = getattr(whole, "config", {})
        named = described.get("split") or "all"
        part = "" if len(indices) == len(whole) else f", {len(indices)} of {len(whole)} videos"
        condition = "boxes" if told else "none, rehearsed" if rehearse or method is not None else "none"
        setting = Setting(
            source=described.get("type", type(source).__name__).rpartition(".")[2],
            split=frozen_split or named + part,
            fingerprint=certified.fingerprint,
            identity="verified" if certified.verified else "unverified",
            transform=getattr(transform, "config", None),
            features=None if features is None else str(features),
            condition="not stated" if predictions is not None and boxes is None else condition,
            mask_sources={name: method.mask_source for name, method in methods.items()},
            checkpoint=checkpoint,
            checkpoint_hash=None if checkpoint is None else weights_sha256(checkpoint),
            num_slots=slots if model is None else model.num_slots,
            seed=seed,
            precision=None if predictions is not None else precision,
        )
        content = write_results(out_dir, scores, videos, counted, setting, write=accelerator.is_main_process)
        if report and accelerator.is_main_process:
            title = f"{setting.source}, {setting.split}: {checkpoint or predictions or method}"
            page = Path(out_dir) / "report.html"
            write_extremes(page, title, methods[MAIN], videos, scores[MAIN], counted[0], report)
    return content
