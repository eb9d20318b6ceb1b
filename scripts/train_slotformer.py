"""Train a SlotFormer on cached slots.

python scripts/train_slotformer.py cache=runs/slots/train out_dir=runs/slotformer slotformer=small
python scripts/train_slotformer.py cache=runs/slots/train out_dir=runs/slotformer resume=true
accelerate launch --multi_gpu --num_processes 8 scripts/train_slotformer.py … # the same result: batch_size is global
"""

from __future__ import annotations

from functools import partial

import torch
from _commands import check_start
from _main import entry
from _sentences import of_trained
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dias_video.engine.loop import Trainer
from dias_video.machine.threads import threads, threads_for
from dias_video.pretrained.saving import start_from
from dias_video.pretrained.weights import pinned
from slotformer.batch import SlotWindows, pack, slot_statistics
from slotformer.cache import SlotCache
from slotformer.prediction import check_same_encoder, validate_rollouts
from slotformer.rollouter import Dynamics


@entry("train_slotformer")
def main(cfg: DictConfig, checkpoint: str | None, val_cache: str | None) -> None:
    """Train ``cfg.slotformer`` on ``cfg.cache``."""
    check_start(cfg)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    trainer: Trainer = instantiate(cfg.trainer)
    config["checkpoint"] = None if checkpoint is None else pinned(checkpoint)
    cache = SlotCache(cfg.cache)
    torch.manual_seed(cfg.seed)  # initial weights
    made_by = {"encoder": cache.header.get("checkpoint_sha256", ""), "encoding": cache.encoding}
    model: Dynamics = instantiate(cfg.slotformer, slot_dim=cache.slot_dim, **made_by)
    if checkpoint is not None:  # the slots on which it was trained may be of another DIAS
        start_from(model, config["checkpoint"], [*cfg.changed, *made_by])
    else:
        model.set_statistics(*slot_statistics(cache))
    windows = SlotWindows(cache, model.burn_in + model.rollout_steps, model.stride, cfg.seed)
    if windows.too_short and trainer.is_main:
        print(f"{windows.too_short} of {len(cache)} videos are too short for {windows.span} frames and left out")
    validate = None
    if val_cache is not None:
        held_out = SlotCache(val_cache)
        check_same_encoder(model, held_out)
        validate = partial(validate_rollouts, cache=held_out)
    with threads(threads_for(model)):
        trainer.fit(model, windows, pack, cfg.out_dir, cfg.resume, config, validate)
    if trainer.is_main:
        print(of_trained(cfg.out_dir, "rollout", cache=val_cache or cfg.cache, out_dir=f"{cfg.out_dir}/rollout"))


if __name__ == "__main__":
    main()
