"""What a training step asks of a GPU, counted on any machine: operators launched, and moments at which the host waits.

The training engine's own step runs on tensors that only claim to be on a GPU: shapes and types are worked out, nothing
is computed. An operator that computes there counts as one launch, though some launch several kernels; views and
allocations count as none. The host waits where a number is read back, and where a copy does not leave it free to go on:
one that is not asked to, or not from pinned memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure import Bench, Row
from benchmarks.training import SETTINGS, Ours, clips
from dias_video.model.dias import DIAS
from dias_video.pretrained.configured import build

FREE = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::detach", "aten::lift_fresh", "aten::_unsafe_view")
ON_THE_HOST = ("dias_video::assign", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")


@torch.library.impl("aten::_thnn_fused_gru_cell", "Meta")
def _gru_cell(inputs: Tensor, hidden: Tensor, state: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor]:
    """Shapes of what PyTorch's GRU cell on CUDA returns, which PyTorch itself can't tell."""
    return torch.empty_like(state), state.new_empty(len(state), 5 * state.shape[1])


@torch.library.impl("aten::_thnn_fused_gru_cell_backward", "Meta")
def _gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    gates = gradient.new_empty(len(gradient), 3 * gradient.shape[1])
    bias = gates.sum(0) if has_bias else None
    return gates, torch.empty_like(gates), torch.empty_like(gradient), bias, bias


class Trace(TorchDispatchMode):
    """Counts what runs inside it on tensors of a GPU, under the operators' names."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name, pinned = func.name().partition(".")[0], kwargs.get("pin_memory")
        if name == "prim::device":  # a question, not an operator
            return out
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if pinned:
            written[0].is_from_pinned_memory = True  # type: ignore[attr-defined]
        if not any(x.is_cuda for x in read + written) or func.is_view or name in FREE:
            return out
        self.launches[name] += 1
        if name in ON_THE_HOST or _crosses(name, read, written, kwargs):
            self.waits[name] += 1
        return out


def _crosses(name: str, read: list[Tensor], written: list[Tensor], options: dict[str, Any]) -> bool:
    """Whether a copy between host and device keeps the host waiting. A number on the host goes along with a launch."""
    devices = {x.device.type for x in [*read, *written] if x.ndim or name in ("aten::_to_copy", "aten::copy_")}
    free = options.get("non_blocking") and getattr(read[0], "is_from_pinned_memory", False)
    return len(devices) > 1 and not free


def run(bench: Bench) -> list[Row]:
    """The counts of every model of ``bench.models``; they don't depend on the device, nor on the batch."""
    rows = []
    for name, config in bench.models.items():
        for cached in (True, False):
            forward, update = trace(config, name, cached)
            group = f"launches of an update, {name}, {'cached features' if cached else 'with the encoder'}, bfloat16"
            for part, found in (("forward", forward), ("the whole update", update)):
                counts = f"{found.launches.total()} launches, the host waits {found.waits.total()} times"
                rows.append(Row(group, part, note=f"{counts} {dict(found.waits) or ''}"))
    return rows


def trace(config: dict[str, Any], name: str, cached: bool = True) -> tuple[Trace, Trace]:
    """The forward pass of a model on one batch of a setting, and the whole update by the engine that has it inside.

    ``cached``: features come with the batch, and the frozen encoder, whose launches depend on its depth, does not run.
    """
    setting = SETTINGS[name]
    model: DIAS = build(config)
    with FakeTensorMode(allow_non_fake_inputs=True), _pretended_gpu():
        model.to("cuda")
        batch = clips(setting, setting.batch, "cuda")
        if cached:
            tokens = model.encoder.grid[0] * model.encoder.grid[1], model.encoder.feature_dim
            batch.features = torch.empty(setting.batch, setting.frames, *tokens, device="cuda")
        with mock.patch.object(nn.Module, "to", lambda module, *_: module):  # it is there, and can't be moved again
            ours = Ours(model, setting.batch, "bf16")
        ours.step(batch)  # the first one makes the optimizer's state
        forward, update = Trace(), Trace()
        plain = ours.model.forward

        def traced(*arguments: Any) -> dict[str, Tensor]:
            with forward:
                return plain(*arguments)

        with mock.patch.object(ours.model, "forward", traced), update:
            ours.step(batch)
    return forward, update


@contextmanager
def _pretended_gpu() -> Iterator[None]:
    """Let work go as it does on a GPU.

    Without one, autocast and autograd would refuse, and accelerate would choose the CPU; and tensors of this kind are
    not among those that clipping takes all at once.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        stack.enter_context(mock.patch.object(Accelerator, "device", torch.device("cuda")))
        types = mock.patch("torch.utils._foreach_utils._foreach_supported_types", [Tensor, nn.Parameter, FakeTensor])
        stack.enter_context(types)
        if not torch.cuda.is_available():
            stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", fused_attention))
        stack.enter_context(mock.patch.object(Accelerator, "backward", lambda accelerator, loss: backward(loss)))
        yield


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
) -> Tensor:
    """What PyTorch launches on a GPU for ``scaled_dot_product_attention``; without one it takes its longest way."""
    if attn_mask is None:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    bias = torch.where(attn_mask, 0.0, -torch.inf).to(q.dtype)
    width = k.shape[2]
    bias = functional.pad(bias, (0, -width % 8))[..., :width].expand(*q.shape[:3], width)  # rows are to be aligned
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, 0.0, is_causal)[0]


@torch.no_grad()
def backward(loss: Tensor) -> None:
    """What ``loss.backward()`` does, in Python: autograd's own loop wants a driver."""
    assert loss.grad_fn is not None
    order: list[Any] = []
    seen, left = set(), [(loss.grad_fn, False)]
    while left:  # nodes after those that they lead to
        node, done = left.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            left += [(node, True), *((later, False) for later, _ in node.next_functions if later is not None)]
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):  # a parameter; its node would copy what is still referred to
            node.variable.grad = given[0].detach()
            continue
        run = node if callable(node) else node.apply  # apply: of an operator written in Python
        found = run(*(given.get(place) for place in range(len(node._input_metadata))))
        found = found if isinstance(found, tuple) else (found,)
        for gradient, (later, place) in zip(found, node.next_functions, strict=False):
            if later is not None and gradient is not None:
                sums, wanted = gradients.setdefault(later, {}), later._input_metadata[place]
                gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
                sums[place] = sums[place] + gradient if place in sums else gradient
