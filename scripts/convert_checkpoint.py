"""Convert the weights of a released checkpoint to a model of this project; what does not match is listed.

python scripts/convert_checkpoint.py model=released_image file=dias_r-coco.pth out_dir=runs/released
python scripts/convert_checkpoint.py file=slotcontrast/ytvis.ckpt out_dir=runs/slotcontrast    # or VideoSAUR's
python scripts/convert_checkpoint.py file=dinov2_vits14_pretrain.pth out_dir=runs/dinov2    # an encoder's weights alone
python scripts/convert_checkpoint.py slotformer=published slot_dim=192 file=slotformer_physion.pth out_dir=runs/released
"""

from __future__ import annotations

from pathlib import Path

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.convert.dias import adopt_released as adopt_dias
from dias_video.convert.foreign import read_checkpoint
from dias_video.convert.videosaur import convert_videosaur, is_videosaur
from dias_video.pretrained.weights import WEIGHTS
from dias_video.stores.files import check_new
from dias_video.stores.tensors import save_tensors
from slotformer.convert import adopt_released as adopt_slotformer


@entry("convert_checkpoint")
def main(cfg: DictConfig, slot_dim: int | None, num_slots: int | None, overwrite: bool) -> None:
    """Load ``cfg.file`` into a model and save it as ``cfg.out_dir``; file or ``cfg`` tell which model.

    If neither does, only the weights are saved, as safetensors.
    """
    file = Path(cfg.out_dir) / WEIGHTS
    check_new(file, overwrite)
    named = [name for name in ("model", "slotformer") if cfg.get(name) is not None]
    tensors, leftover = read_checkpoint(Path(cfg.file)), []
    if is_videosaur(tensors):
        if named:
            raise ValueError(f"{cfg.file} of VideoSAUR or SlotContrast tells its model itself; leave out {named[0]}=")
        model = convert_videosaur(tensors, num_slots)
    elif named == ["model"]:
        model = instantiate(cfg.model)
        leftover = adopt_dias(model, tensors)
    elif named == ["slotformer"]:
        model = instantiate(cfg.slotformer, slot_dim=slot_dim)
        leftover = adopt_slotformer(model, tensors)
    elif not named:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors({name: value.contiguous().clone() for name, value in tensors.items()}, file)
        print(f"{file}: {len(tensors)} tensors under the names that they had")
        return
    else:
        raise ValueError("choose one of model=released_image (or another DIAS) and slotformer=published")
    model.save_pretrained(cfg.out_dir)
    print(*leftover, sep="\n", end="\n" * bool(leftover))
    print(f"{cfg.out_dir}: {len(tensors)} tensors read; {len(leftover)} names of either side have no match (above)")


if __name__ == "__main__":
    main()
