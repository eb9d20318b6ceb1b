"""The training step as public video slot attention code does it, for comparison: written from its description.

The weights, the losses and the random numbers are those of our model, so both give the same losses; the way is the
usual one: the frozen encoder runs inside every step; a Python loop over frames projects keys and values and calls small
modules; scikit-learn clusters the slots of each sample on the host; tokens are permuted into their random order and
back; regions are matched on the host frame by frame; the decoder's attention is enlarged to full size and made one-hot
for mBO; the host reads losses and metric at every step. Kernels are deterministic.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.layers import CrossAttention, SelfAttention


class Plain:
    """A DIAS that is trained the usual way. Clips are whole (no padding), distillation is ``hard``.

    Args:
        model: whose modules are used; its decoder is random autoregressive, ``parallel``, and it re-initialises.
        autocast: the type of automatic mixed precision, or None. Public code asks for float16 on CUDA; on a CPU that
            request does nothing, and the step runs in float32.
    """

    def __init__(self, model: DIAS, autocast: torch.dtype | None = None) -> None:
        assert isinstance(model.decoder, RandomARDecoder)
        assert model.decoder.mode == "parallel"
        assert model.teacher == "hard"
        assert model.aggregator.reinitialize
        self.model, self.autocast = model, autocast
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.parameters, lr=5e-5)
        self.scaler = torch.amp.GradScaler(enabled=autocast == torch.float16)

    def step(self, batch: VideoBatch, draws: Draws) -> dict[str, float]:
        """One update; the losses and the mBO, read by the host."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        device = batch.video.device.type
        with torch.autocast(device, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            losses, attention = self.losses(batch, draws)
            total = sum(losses.values(), torch.zeros((), device=batch.video.device))
        metric = mean_best_overlap(attention, batch)
        self.adam.zero_grad()
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.adam)
        torch.nn.utils.clip_grad_norm_(self.parameters, 0.05)
        self.scaler.step(self.adam)
        self.scaler.update()
        torch.use_deterministic_algorithms(before)
        return {name: value.item() for name, value in losses.items()} | {"mbo": metric.item()}

    def losses(self, batch: VideoBatch, draws: Draws) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms and the decoder's attention (B,T,S,h,w)."""
        model = self.model
        with torch.no_grad():
            features = model.encoder.features(batch.video).float()  # (B,T,N,C)
        tokens = model.projection(features, batch.video)
        slots, mask, track = None, None, None
        outputs = []
        for t in range(tokens.shape[1]):
            if slots is None:
                boxes = None if batch.boxes is None else batch.boxes[:, t]
                valid = None if batch.box_valid is None else batch.box_valid[:, t]
                queries, on = model.initializer(tokens[:, t], draws, boxes, valid)
                age, iterations = on.long() * 0, model.first_iterations
            else:
                queries, on, age, iterations = model.transition(slots, mask), mask, track, model.later_iterations
                if model.carry != "persist":  # in training "settle" is "reseed"
                    seeds = model.initializer.reseed(len(batch), draws).to(queries.dtype)
                    queries, on = torch.where(mask[..., None], queries, seeds), torch.ones_like(mask)
            skip = None
            if model.training and model.aggregator.reduction.skip > 0:
                skip = draws.uniform() < model.aggregator.reduction.skip
            first, slots, alive, last = self.aggregate(queries, tokens[:, t], on, age, iterations, skip)
            # A track goes on where the slot lived before, and begins where it did not.
            track = torch.where(alive & (track > 0 if track is not None else alive), age + 1, alive.long())
            mask = alive
            outputs.append((slots, mask, first, last))
        slots, mask, first, last = (torch.stack(column, 1) for column in zip(*outputs, strict=True))
        predicted, attention, scored = self.decode(slots, mask, features, draws)
        error = (predicted.float() - features).square().mean(-1)
        losses = {
            "reconstruction": ((error * scored).sum((1, 2)) / scored.sum((1, 2)).clamp_min(1)).mean(),
            "distillation": distillation(first, last, mask),
        }
        return losses, attention.unflatten(-1, model.encoder.grid)

    def aggregate(
        self, slots: Tensor, tokens: Tensor, on: Tensor, age: Tensor, iterations: int, skip: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One frame: first attention (B,S,N), slots (B,S,D), which live (B,S), last attention (B,S,N)."""
        layer = self.model.aggregator.attention
        normal = layer.norm_tokens(tokens)
        keys, values = layer.key(normal), layer.value(normal)

        def iterate(slots: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
            logits = layer.query(layer.norm_slots(slots)) @ keys.transpose(1, 2) * slots.shape[-1] ** -0.5
            attention = logits.float().masked_fill(~on[..., None], -torch.inf).softmax(1)
            weights = attention / (attention.sum(-1, keepdim=True) + layer.EPSILON)
            updates = weights.to(values.dtype) @ values
            new = layer.gru(updates.flatten(0, 1), slots.flatten(0, 1).to(updates.dtype)).view_as(slots)
            new = new + layer.mlp(layer.norm_mlp(new))
            return new * on[..., None], attention

        slots, first = iterate(slots * on[..., None], on)
        for _ in range(iterations - 2):
            slots, _ = iterate(slots, on)
        merged, alive = self.merge(slots, on, age, skip)
        slots, last = iterate(merged, alive)
        return first, slots, alive, last

    def merge(self, slots: Tensor, on: Tensor, age: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        """Clusters become their mean, in the place of their oldest member; one sample after the other on the host."""
        points = slots.detach().double().cpu().numpy()
        weights = np.zeros((*on.shape, on.shape[1]), np.float32)
        for b, live in enumerate(on.cpu().numpy()):
            places = live.nonzero()[0]
            clusters = np.arange(len(places))
            if len(places) > 1 and not (skip is not None and skip[b]):
                clustering = AgglomerativeClustering(
                    None,
                    metric="cosine",
                    linkage="complete",
                    distance_threshold=self.model.aggregator.reduction.threshold,
                )
                clusters = clustering.fit_predict(points[b, places])
            for cluster in range(clusters.max() + 1):
                members = places[clusters == cluster]
                oldest = max(members, key=lambda s: (age[b, s].item(), -s))
                weights[b, oldest, members] = 1 / len(members)
        means = torch.as_tensor(weights, device=slots.device)
        return means.to(slots.dtype) @ slots, means.sum(-1) > 0

    def decode(self, slots: Tensor, mask: Tensor, target: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction (B,T,N,C), attention (B,T,S,N), tokens that count (B,T,N): eq. 18-23 with a permutation."""
        decoder = self.model.decoder
        assert isinstance(decoder, RandomARDecoder)
        batch, frames, tokens, _ = target.shape
        slots, mask, target = slots.flatten(0, 1), mask.flatten(0, 1), target.flatten(0, 1)
        order = draws.uniform(frames, tokens).flatten(0, 1).to(slots.device).argsort(-1)  # (F,N)
        length = decoder._prefix_length(draws, frames).flatten().to(slots.device)
        known = torch.arange(tokens, device=slots.device) < length[:, None]
        x = decoder.project_tokens(permuted(target, order))
        x = torch.where(known[..., None], x, decoder.mask_token.to(x.dtype))
        x = x + permuted(decoder.positions.expand(len(x), -1, -1), order)
        memory = decoder.transformer.project_slots(slots)
        x = decoder.transformer.norm(x)
        attention = x
        for layer in decoder.transformer.layers:
            x = x + self_attention(layer.self_attention, layer.norm1(x))
            update, attention = cross_attention(layer.cross_attention, layer.norm2(x), memory, mask)
            x = x + update
            x = x + layer.mlp(layer.norm3(x))
        back = order.argsort(-1)
        x, attention = permuted(decoder.readout(x), back), permuted(attention, back)
        scored = torch.ones_like(known) if decoder.scored == "all" else ~permuted(known[..., None], back)[..., 0]
        shape = (batch, frames)
        return x.unflatten(0, shape), attention.transpose(1, 2).unflatten(0, shape), scored.unflatten(0, shape)


def self_attention(layer: SelfAttention, x: Tensor) -> Tensor:
    """Through the fused kernel, as PyTorch's own layers do."""
    q, k, v = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    return layer.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def cross_attention(layer: CrossAttention, x: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """With weights in every layer, as layers that are asked for them give."""
    q = layer.q(x).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
    k, v = (part.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for part in layer.kv(memory).chunk(2, -1))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = logits.float().masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
    return layer.out((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)), weights.mean(1)


def permuted(x: Tensor, order: Tensor) -> Tensor:
    """Tokens (F,N,C) in the order (F,N)."""
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def distillation(first: Tensor, last: Tensor, mask: Tensor) -> Tensor:
    """Hard self-distillation, frame by frame with a matching on the host each."""
    terms = []
    for a, z, live in zip(first.float().flatten(0, 1), last.detach().flatten(0, 1), mask.flatten(0, 1), strict=True):
        labels, regions = z.masked_fill(~live[:, None], -1).argmax(0), a.argmax(0)  # (N,)
        one, two = F.one_hot(labels, len(a)).float(), F.one_hot(regions, len(a)).float()  # (N,S)
        both = one.T @ two
        iou = both / (one.sum(0)[:, None] + two.sum(0) - both).clamp_min(1)
        iou[:, a.detach().amax(-1) == 0] = -1
        iou[~live] = 0
        match = linear_sum_assignment(iou.cpu().numpy(), maximize=True)[1]
        target = torch.as_tensor(match, device=a.device)[labels]
        terms.append(-a.gather(0, target[None]).clamp_min(torch.finfo(torch.float32).tiny).log().mean())
    return torch.stack(terms).mean()


@torch.no_grad()
def mean_best_overlap(maps: Tensor, batch: VideoBatch) -> Tensor:
    """mBO of masks at full size, one-hot, videos pooled, averaged over the batch."""
    assert batch.masks is not None
    size = batch.masks.shape[-2:]
    masks = F.interpolate(maps.flatten(0, 1).float(), size=size, mode="bilinear").argmax(1).unflatten(0, maps.shape[:2])
    pred = F.one_hot(masks.flatten(1), maps.shape[2]).bool()  # (B,THW,S)
    true = F.one_hot(batch.masks.flatten(1).long()).bool()  # (B,THW,K)
    scores = []
    for p, t in zip(pred, true, strict=True):
        both = t.T.float() @ p.float()
        iou = both / (t.sum(0)[:, None] + p.sum(0) - both).clamp_min(1)
        scores.append(iou.amax(1)[t.any(0)].mean())
    return torch.stack(scores).mean()
