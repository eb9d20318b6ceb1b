"""Write the frozen encoder's features of a data set, so that training never runs the encoder.

python scripts/cache_features.py model=dinov2 data=ytvis data.root=… path=runs/features
python scripts/cache_features.py checkpoint=runs/tokenizer/checkpoints/last kind=codes data=ytvis data.root=… path=codes
accelerate launch scripts/cache_features.py …    # several processes share the work
"""

from __future__ import annotations

import torch
from _main import entry, source_of
from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.data.features import cache_features, cache_size
from dias_video.pretrained.saving import Pretrained
from dias_video.stores.store import build_index


@entry("cache_features")
def main(cfg: DictConfig) -> None:
    """Cache ``cfg.split`` of ``cfg.data`` in ``cfg.path``."""
    if cfg.checkpoint is None and cfg.get("model") is None:
        raise ValueError("name an encoder: checkpoint=<folder of a trained model> or model=<one of configs/model>")
    processes = Accelerator(cpu=cfg.device == "cpu")  # PartialState would not heed ACCELERATE_USE_CPU
    device = torch.device(cfg.device) if cfg.device else processes.device
    source = source_of(cfg)
    if cfg.checkpoint is None:
        makers = {"features": instantiate(cfg.model.encoder).to(device).eval()}
    else:
        makers = Pretrained.from_pretrained(cfg.checkpoint).to(device).eval().frozen
    if cfg.kind not in makers:
        raise ValueError(f"kind={cfg.kind}: nothing here makes that; choose from {', '.join(makers)}")
    encoder = makers[cfg.kind]
    cache_features(
        encoder,
        source,
        cfg.path,
        size=cfg.data.size,
        flips=cfg.flips,
        batch_frames=cfg.batch_frames,
        device=device,
        precision=cfg.precision,
        kind=cfg.kind,
        part=processes.process_index,
        parts=processes.num_processes,
    )
    processes.wait_for_everyone()
    if processes.is_main_process:
        build_index(cfg.path)
        print(f"{cfg.path}: features of {len(source)} videos, {cache_size(cfg.path) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
