"""Score a trained model, or prediction files of any program, and two baselines on videos with masks.

python scripts/evaluate.py checkpoint=runs/x/checkpoints/last data=simulated data.root=… out_dir=runs/x/eval
python scripts/evaluate.py predictions=path/to/maps data=ytvis data.root=… out_dir=runs/other
python scripts/evaluate.py method=auto data=davis data.root=… out_dir=runs/auto    # without training
accelerate launch scripts/evaluate.py …    # the processes share the videos
"""

from __future__ import annotations

from pathlib import Path

from _main import entry, options
from _videos import source_of
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.evaluation.results import summary_table
from dias_video.evaluation.run import evaluate
from dias_video.machine.ranks import joined


@entry("evaluate", evaluate)
def main(cfg: DictConfig) -> None:
    """Score ``cfg.data.eval`` and write metrics.json, videos.csv and report.html into ``cfg.out_dir``."""
    plain = options(cfg, but=("data", "encoder", "measures"))
    processes = joined(cfg.device)
    source = source_of(cfg, "eval")
    found = evaluate(
        source=source,
        transform=instantiate(cfg.data.get("eval_transform")),
        encoder=instantiate(cfg.encoder),
        measures=instantiate(cfg.measures),
        **plain,
    )
    about = found["about"]
    if processes.is_main_process:
        print(summary_table(found))
        work = "1 process" if processes.num_processes == 1 else f"{processes.num_processes} processes"
        print(f"{Path(cfg.out_dir) / 'metrics.json'}: {about['videos']} videos of {about['split']}, {work}")


if __name__ == "__main__":
    main()
