"""Write the frozen encoder's features of a data set, so that training never runs the encoder.

python scripts/cache_features.py model=dinov2 data=ytvis data.root=… path=runs/features
python scripts/cache_features.py checkpoint=runs/tokenizer/checkpoints/last kind=codes data=ytvis data.root=… path=codes
accelerate launch scripts/cache_features.py …    # several processes share the work
"""

from __future__ import annotations

from pathlib import Path

from _main import entry
from _videos import announce_random, check_encoder, source_of
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.data.features import FEATURES, FeatureCache, cache_features, cache_size
from dias_video.machine.ranks import Ranks, joined
from dias_video.model.distillation import Distillation
from dias_video.model.encoders import Encoder
from dias_video.pretrained.saving import Pretrained
from slotformer.contact.physion15 import exporter
from slotformer.contact.pooled import pooled_tokens


@entry("cache_features")
def main(cfg: DictConfig, checkpoint: str | None, device: str | None, export: str | None) -> None:
    """Cache ``cfg.split`` of ``cfg.data`` in ``cfg.path``."""
    check_encoder(cfg, "cache", "a trained tokenizer: checkpoint=<its folder> kind=codes")
    processes = joined(device)
    source = source_of(cfg, cfg.split)
    with Ranks().together():  # one of several processes reports an error
        exported = exporter(export, source)
        if exported and cfg.kind != FEATURES:
            raise ValueError(f"kind={cfg.kind} can't be exported; export features")
        if checkpoint is None:
            if processes.is_main_process:
                announce_random(cfg.model.encoder)
            makers = {FEATURES: instantiate(cfg.model.encoder)}
        else:
            model = Pretrained.from_pretrained(checkpoint).eval()
            makers = {FEATURES: model} if isinstance(model, Encoder) else getattr(model, "frozen", None)
            if makers is None:
                said = f"{checkpoint} holds no model of videos but {type(model).__name__}"
                raise ValueError(f"{said}; name a model of a frozen encoder, or a trained tokenizer")
        if not makers:
            ways = "train on video"
            if isinstance(model, Distillation):
                ways = f"its encoder's features are cached with model=tiny_free model.encoder.weights={checkpoint}"
            raise ValueError(f"the whole model in {checkpoint} is trained, so there is nothing to cache; {ways}")
        if cfg.kind not in makers:
            raise ValueError(f"this model makes no {cfg.kind}; set kind to one of {', '.join(makers)}")
    options = {name: cfg[name] for name in ("flips", "batch_frames", "precision", "kind", "num_workers")}
    cache_features(makers[cfg.kind], source, cfg.path, instantiate(cfg.data.eval_transform), device=device, **options)
    if processes.is_main_process:
        print(f"{cfg.path}: {cfg.kind} of {len(source)} videos, {cache_size(cfg.path) / 1e9:.2f} GB")
        if exported:
            print(exported(Path(cfg.path) / "physion15", pooled_tokens(FeatureCache(cfg.path), source)))


if __name__ == "__main__":
    main()
