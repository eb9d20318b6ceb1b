"""Weights of a released checkpoint in a model of ours; what does not match is listed.

python scripts/convert_checkpoint.py model=released_image file=dias_r-coco.pth out_dir=runs/released
python scripts/convert_checkpoint.py slotformer=published slot_dim=192 file=slotformer_physion.pth out_dir=runs/released
"""

from __future__ import annotations

from pathlib import Path

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.convert.dias import adopt_released as adopt_dias
from dias_video.convert.foreign import read_checkpoint
from slotformer.convert import adopt_released as adopt_slotformer


@entry("convert_checkpoint")
def main(cfg: DictConfig) -> None:
    """Fill ``cfg.model`` or ``cfg.slotformer`` from ``cfg.file`` and save it as ``cfg.out_dir``."""
    if (cfg.get("model") is None) == (cfg.get("slotformer") is None):
        raise ValueError("choose one: model=released_image (or another DIAS), or slotformer=published")
    tensors = read_checkpoint(Path(cfg.file))
    if cfg.get("model") is not None:
        model = instantiate(cfg.model)
        leftover = adopt_dias(model, tensors)
    else:
        model = instantiate(cfg.slotformer, slot_dim=cfg.slot_dim)
        leftover = adopt_slotformer(model, tensors)
    model.save_pretrained(cfg.out_dir)
    print(*leftover, sep="\n")
    print(f"{cfg.out_dir}: {len(tensors)} tensors read; {len(leftover)} names of either side have no match (above)")


if __name__ == "__main__":
    main()
