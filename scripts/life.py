"""Signs of life of a trained model: its loss with its own slots and with those of another clip, and the slots it keeps.

python scripts/life.py checkpoint=runs/x/checkpoints/last data.root=data/toss-A out_dir=runs/life
"""

from __future__ import annotations

from _main import entry, options
from _videos import source_of
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.evaluation.life import life


@entry("life", life)
def main(cfg: DictConfig) -> None:
    """Score clips of ``cfg.data.eval``."""
    transform = instantiate(cfg.data.eval_transform)
    scores = life(videos=source_of(cfg, "eval"), transform=transform, **options(cfg, but=("data",)))
    print("\n".join(f"{name}: {value:.4g}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
