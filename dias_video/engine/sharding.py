"""One model on many devices: a copy on each (DDP) or, if accelerate's configuration asks for FSDP, shards.

A sharded tensor is a ``DTensor``. All functions here also take ordinary tensors and return them unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from dias_video.machine.ranks import PATIENCE


def join(precision: str) -> Accelerator:
    """Join the other processes as the launcher and accelerate's configuration say.

    Raises:
        ValueError: the configuration asks for something that the trainer can't do.
    """
    # Unused parameters are normal: learned queries are not used in a batch with boxes.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Accelerate gets the precision only for its loss scaler; ``Updater`` uses autocast itself.
    mixed = "fp16" if precision == "fp16" else "no"
    accelerator = Accelerator(mixed_precision=mixed, kwargs_handlers=[ddp, InitProcessGroupKwargs(timeout=PATIENCE)])
    wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wanted and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # On CPUs accelerate would replicate the model without a warning, although PyTorch can shard there too.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
    if accelerator.distributed_type == DistributedType.FSDP:
        _settle(accelerator.state.fsdp_plugin)
    elif accelerator.distributed_type not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        kind = str(accelerator.distributed_type.value)
        raise ValueError(
            f"{kind} was asked for by accelerate's configuration; this trainer replicates the model (accelerate launch "
            "--multi_gpu) or shards it (accelerate launch --use_fsdp --fsdp_version 2)"
        )
    return accelerator


def _settle(plugin: FullyShardedDataParallelPlugin) -> None:
    if plugin.fsdp_version != 2:
        raise ValueError("accelerate's configuration asks for FSDP of version 1; add --fsdp_version 2")
    plugin.cpu_ram_efficient_loading = False  # it can't send buffers, and every process makes the same model anyway
    plugin.mixed_precision_policy = None  # autocast sets the precision, as with DDP


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; it shares memory with the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded like ``like``."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # None: nothing is sent


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes; all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors on the CPU; an empty dict if ``keep`` is false. Every process calls it with the same names."""
    out = {}
    for name, value in tensors.items():
        gathered = full(value.detach())
        if keep:
            out[name] = gathered.cpu().contiguous()
    return out
