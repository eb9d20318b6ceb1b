"""Score a trained model, or prediction files of any program, on videos with masks, beside two baselines.

python scripts/evaluate.py checkpoint=runs/x/checkpoints/last data=simulated data.root=… out_dir=runs/x/eval
python scripts/evaluate.py predictions=path/to/maps data=ytvis data.root=… out_dir=runs/other
accelerate launch scripts/evaluate.py …    # the processes share the videos
"""

from __future__ import annotations

from pathlib import Path

from _main import entry
from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.data.features import cached_features
from dias_video.data.problems import usable
from dias_video.data.source import has_boxes
from dias_video.evaluation.baselines import FixedBoxes, KMeans
from dias_video.evaluation.methods import Method, ModelTracks, PredictionFiles
from dias_video.evaluation.protocols import PROTOCOLS
from dias_video.evaluation.results import MAIN, Setting, summary_table, write_results
from dias_video.evaluation.scoring import Videos, evaluate
from dias_video.evaluation.splits import check_split
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import weights_sha256

BASELINES = ("boxes_fixed", "kmeans")


def load_model(cfg: DictConfig, accelerator: Accelerator) -> tuple[DIAS | None, str | None]:
    """The model of ``cfg.checkpoint`` on its device, and the hash of its weights; None for prediction files."""
    if (cfg.checkpoint is None) == (cfg.predictions is None):
        raise ValueError("say what to score: checkpoint=<folder of a trained model> or predictions=<folder of maps>")
    if cfg.checkpoint is None:
        return None, None
    model = DIAS.from_pretrained(cfg.checkpoint).to(cfg.device or accelerator.device).eval()
    return model, weights_sha256(cfg.checkpoint)


def build_methods(cfg: DictConfig, model: DIAS | None, boxes: bool) -> dict[str, Method]:
    """What is scored, by name: the model or the files first, then the baselines."""
    unknown = [name for name in cfg.baselines if name not in BASELINES]
    if unknown:
        raise ValueError(f"unknown baseline {unknown[0]!r}; choose from {', '.join(BASELINES)}")
    if model is None:
        methods: dict[str, Method] = {MAIN: PredictionFiles(cfg.predictions)}
    else:
        methods = {MAIN: ModelTracks(model, boxes, cfg.window, cfg.seed, cfg.rehearse, cfg.follow_edges)}
    if "boxes_fixed" in cfg.baselines and boxes:
        methods["baselines/boxes_fixed"] = FixedBoxes()
    if "kmeans" in cfg.baselines and model is not None:
        methods["baselines/kmeans"] = KMeans(
            model.encoder, model.num_slots, boxes, cfg.seed, window=cfg.window, follow_edges=cfg.follow_edges
        )
    return methods


@entry("evaluate")
def main(cfg: DictConfig) -> None:
    """Score ``cfg.data.eval`` and write ``metrics.json`` and ``videos.csv`` into ``cfg.out_dir``."""
    unknown = [name for name in cfg.protocols if name not in PROTOCOLS]
    if unknown or not cfg.protocols:
        raise ValueError(f"protocols={list(cfg.protocols)} must name some of {', '.join(PROTOCOLS)}")
    protocols = [PROTOCOLS[name] for name in cfg.protocols]
    out_dir = Path(cfg.out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"out_dir={out_dir} is a file; name a folder")
    accelerator = Accelerator(cpu=cfg.device == "cpu")
    model, checkpoint_hash = load_model(cfg, accelerator)
    source = usable(instantiate(cfg.data.eval), cfg.data.get("on_error", "raise"))
    if cfg.frozen_split is not None:
        check_split(cfg.frozen_split, len(source))
    if model is None and cfg.features is not None:
        raise ValueError("features= is what a model looks at: give it with checkpoint=, not with predictions=")
    features = None if model is None else cached_features(cfg.features, model.encoder)
    videos = Videos(source, instantiate(cfg.data.get("eval_transform")), cfg.max_videos, cfg.max_frames, features)
    boxes = cfg.boxes
    if boxes is None:
        boxes = (model is None or model.takes_boxes) and has_boxes(source)
    if cfg.rehearse and (boxes or model is None):
        raise ValueError("rehearse=true is for a model that is given no boxes; set boxes=false with it")
    if cfg.follow_edges and model is None:
        raise ValueError("follow_edges=true is for maps of a model: give it with checkpoint=, not with predictions=")
    methods = build_methods(cfg, model, boxes)
    scores = evaluate(methods, videos, protocols, cfg.tracking, cfg.num_workers, accelerator, cfg.batch_size)
    if not accelerator.is_main_process:
        return
    told = "boxes" if boxes else "none, rehearsed" if cfg.rehearse else "none"
    setting = Setting(
        source=cfg.data.eval._target_.rpartition(".")[2],
        split=cfg.frozen_split or cfg.data.eval.get("split") or "all",
        condition="not stated" if model is None and cfg.boxes is None else told,
        mask_sources={name: method.mask_source for name, method in methods.items()},
        checkpoint=cfg.checkpoint,
        checkpoint_hash=checkpoint_hash,
        num_slots=None if model is None else model.num_slots,
        seed=cfg.seed,
    )
    content = write_results(out_dir, scores, videos, protocols, setting)
    print(summary_table(content, list(methods), protocols))
    work = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    print(f"{out_dir / 'metrics.json'}: {len(videos)} videos of {setting.split}, {work}")


if __name__ == "__main__":
    main()
