"""Recognition probe: a small MLP predicts the class and the box of an object from its slot.

python scripts/probe.py checkpoint=runs/x/checkpoints/last data.root=data/toss-A out_dir=runs/probe
python scripts/probe.py experiment=coco checkpoint=runs/x/checkpoints/last data.root=path/to/coco out_dir=runs/probe
"""

from __future__ import annotations

from _main import entry, options
from _videos import source_of
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.evaluation.probe import probe


@entry("probe", probe)
def main(cfg: DictConfig) -> None:
    """Fit on videos of ``cfg.data.train`` and score on ``cfg.data.eval``, with the slots of evaluation."""
    videos = {"train": source_of(cfg, "train"), "test": source_of(cfg, "eval")}
    scores = probe(**videos, transform=instantiate(cfg.data.eval_transform), **options(cfg, but=("data",)))
    print("\n".join(f"{name}: {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
