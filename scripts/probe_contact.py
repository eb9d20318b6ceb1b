"""Predict contact from frozen features with Physion v1.5's official probe, on the frames that its evaluation shows.

python scripts/probe_contact.py experiment=physion15 representation=tokens data.root=path/to/it out_dir=runs/tokens
python scripts/probe_contact.py experiment=physion15 representation=slots checkpoint=runs/train/checkpoints/last …
"""

from __future__ import annotations

from pathlib import Path

from _main import entry
from _options import leaves
from _videos import source_of
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from slotformer.contact.probing import probe_contact


@entry("probe_contact", probe_contact)
def main(cfg: DictConfig) -> None:
    """Fit on ``cfg.data.train``, score on ``cfg.data.eval``, from ``cfg.representation``."""
    taken = [value for _, value in leaves(OmegaConf.to_container(cfg.representation, resolve=False))]
    for name in ("checkpoint", "dynamics"):
        if cfg[name] is not None and f"${{{name}}}" not in taken:
            raise ValueError(f"this representation= looks at no {name}; leave out {name}=")
    videos = {"train": source_of(cfg, "train", checked=False), "test": source_of(cfg, "eval", checked=False)}
    given = {name: cfg[name] for name in ("out_dir", "resume", "export", "device")}
    rows = probe_contact(**videos, features=instantiate(cfg.representation), **given)
    for row in rows:
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{row['scenario']:>9}: accuracy {row['accuracy']:.3f} {interval}, {row['clips']} clips")
    if rows:
        print(Path(cfg.out_dir) / "accuracy.csv")


if __name__ == "__main__":
    main()
