"""Temporal DIAS: encode every frame at once, aggregate frame by frame, decode every frame at once.

An image is a video of one frame. Equation numbers are the paper's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dias_video.batch import CarryState, SlotSequence, VideoBatch
from dias_video.draws import Draws
from dias_video.model.aggregator import Aggregator
from dias_video.model.decoders.decoded import Decoder
from dias_video.model.encoders import Encoder
from dias_video.model.initializers import Initializer
from dias_video.model.losses import TEACHERS, distillation_loss
from dias_video.model.objectives import FeatureObjective, Objective
from dias_video.model.predictor import Predictor
from dias_video.model.projection import Projection
from dias_video.model.relu_projection import ReLUProjection
from dias_video.model.sizes import check_sizes
from dias_video.model.tokenizers.tokenizer import check_tokenizer
from dias_video.model.transition import Transition
from dias_video.model.watch import WATCHED, watch
from dias_video.pretrained.saving import Pretrained
from dias_video.tracking import track_videos


class Guide(Protocol):
    """A source of further losses for slots, used in training only and not saved with the model."""

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """What it needs of a training batch, as for ``DIAS``."""
        ...

    def check(self, encoder: Encoder) -> None:
        """Raise ValueError if it needs the features of another encoder."""
        ...

    def losses(self, batch: VideoBatch, features: Tensor, scan: Scan, draws: Draws) -> dict[str, Tensor]:
        """Loss terms, each (B,), for the slots of ``scan`` on ``features`` (B,T,N,C).

        It is called after all draws of the model.
        """
        ...


CARRIES = ("reseed", "persist", "settle")
COLLAPSED = 1.5  # with fewer live slots a frame, on average, a model can't separate objects
MASK_SOURCES = ("decoder", "aggregation")


@dataclass(kw_only=True)
class Scan(SlotSequence):
    """Slots with what the losses need; ``attention`` is A_a, that of the last iteration."""

    gate: Tensor  # (B,T,S) ``live``, or floats with a gradient (``Reduced``)
    first: Tensor  # (B,T,S,h,w) A_a^1
    num_live: Tensor  # (B,T) int64 number of slots that reduction leaves, or would leave where it is skipped
    state: CarryState  # from which the next window continues


class DIAS(Pretrained, nn.Module):
    """Slot attention with re-initialisation and self-distillation, carried over frames.

    Args:
        encoder: the frozen encoder; its tokens are the input and the reconstruction target Y = Z.
        projection: makes the tokens for Slot Attention.
        initializer: makes the queries of the first frame, and of freed slots on later frames.
        aggregator: re-initialised aggregation.
        transition: makes the queries of a frame from the slots of the frame before.
        decoder: phi_d.
        first_iterations, later_iterations: i_a on the first frame and on the others.
        carry: what happens to a slot that is off at t. ``reseed``: it starts again from the initializer's Gaussian at
            t + 1, where it may take an object from its track. ``persist``: it stays off. ``settle``: as ``reseed`` in
            training, so that slots don't run out; in evaluation slots are reduced on a video's first frame, or
            at the end of a rehearsal, and afterwards none is seeded, merged away or dropped.
        teacher: self-distillation: ``hard`` (eq. 14-15), ``soft`` (released image code), or None.
        mask_source: where masks come from: ``decoder`` is its attention A_d, ``aggregation`` is A_a.
        objective: what slots have to reconstruct; None: the encoder's features.
        guide: adds loss terms (``guide.MaskTeacher``, ``contrast.SlotContrast``); it is not saved.

    Raises:
        ValueError: an option has an unknown value, or there are fewer than 2 iterations with re-initialisation.
    """

    not_stored = {"guide": None}  # noqa: RUF012 - a constant
    watched = WATCHED

    def __init__(
        self,
        encoder: Encoder,
        projection: Projection | ReLUProjection,
        initializer: Initializer,
        aggregator: Aggregator,
        transition: Transition | Predictor,
        decoder: Decoder,
        first_iterations: int = 3,
        later_iterations: int = 2,
        carry: str = "reseed",
        teacher: str | None = "hard",
        mask_source: str = "decoder",
        objective: Objective | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__()
        aggregator.check_iterations(first_iterations, "first_iterations")
        aggregator.check_iterations(later_iterations, "later_iterations")
        for name, value, known in (
            ("carry", carry, CARRIES),
            ("teacher", teacher, (None, *TEACHERS)),
            ("mask_source", mask_source, MASK_SOURCES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        self.encoder = encoder.requires_grad_(False)
        self.projection, self.initializer = projection, initializer
        self.aggregator, self.transition, self.decoder = aggregator, transition, decoder
        self.first_iterations, self.later_iterations = first_iterations, later_iterations
        self.carry, self.teacher, self.mask_source = carry, teacher, mask_source
        self.objective = objective or FeatureObjective()
        self.guide = guide
        decoder.feedback = self.objective.as_known

    @classmethod
    def shipped(cls) -> DIAS:
        """The small model that comes with the package (``dias_video/assets/dias``, see the card beside it)."""
        return cls.from_pretrained(Path(__file__).parents[1] / "assets" / "dias")

    @property
    def takes_boxes(self) -> bool:
        """Whether its first queries can come from boxes."""
        return self.initializer.takes_boxes

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """What it needs of a training batch, ``video`` or ``boxes``, besides what is ``cached`` of ``frozen``."""
        running = [part for name, part in self.frozen.items() if name not in cached]
        needed = {"boxes"} if self.takes_boxes else set()
        if self.projection.sees_frames or any(part.sees_frames for part in running):
            needed.add("video")
        return needed if self.guide is None else needed | self.guide.inputs(cached)

    @property
    def settles(self) -> bool:
        """Whether slots stay as they are after the first frame (``carry="settle"``, in evaluation)."""
        return self.carry == "settle" and not self.training

    @property
    def num_slots(self) -> int:
        """Slots a frame, S."""
        return self.initializer.num_slots

    @property
    def slot_dim(self) -> int:
        """Width of a slot, D."""
        return self.initializer.slot_dim

    @property
    def frozen(self) -> dict[str, Any]:
        """The inputs of the model that can be cached, by name, each with the module that makes it."""
        return {"features": self.encoder, **self.objective.frozen}

    def check_parts(self) -> None:
        """Raise ValueError if parts differ in a size, or its tokenizer or guide needs another encoder's features."""
        check_sizes(self.encoder, self.config)
        check_tokenizer(self.frozen)
        if self.guide is not None:
            self.guide.check(self.encoder)

    def train(self, mode: bool = True) -> DIAS:
        """Switch between training and evaluation; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: VideoBatch, draws: Draws) -> dict[str, Tensor]:
        """Terms of a training step, each (B,).

        They are the losses of the objective, of the reduction and of the guide; ``distillation`` where it is switched
        on; and the terms of ``watched``, which are not minimised.
        """
        features = self.features(batch)  # (B,T,N,C)
        target = self.objective.target(features, batch)
        scan = self.scan(batch, features, draws)  # eq. 8-10
        decoded = self.decoder(scan.slots, scan.gate, target.known, draws)  # eq. 11, 18-22
        counted = decoded.scored & batch.frame_valid[..., None]
        with torch.autocast(features.device.type, enabled=False):  # numbers of cells and logarithms need float32
            terms = self.objective.losses(decoded.reconstruction, target, counted, batch)  # eq. 23
            terms |= self.aggregator.losses(scan.gate, batch.frame_valid)
            if self.teacher is not None:  # eq. 14-15
                assert scan.attention is not None
                maps = (scan.first.flatten(-2), scan.attention.flatten(-2))  # (B,T,S,N) each
                terms["distillation"] = distillation_loss(*maps, scan.live, self.teacher, batch.frame_valid)
        if self.guide is not None:
            terms |= self.guide.losses(batch, features, scan, draws)
        assert scan.attention is not None
        return terms | watch(scan.attention.flatten(-2), scan.live, scan.num_live, batch.frame_valid)

    def alarm(self, watched: Mapping[str, float]) -> str | None:
        """A warning if the means of the watched terms over many updates show that slots have collapsed, else None."""
        live = max(watched[name] for name in ("live_first", "live_later") if name in watched)
        if self.aggregator.reduction is None or self.num_slots == 1 or live >= COLLAPSED:
            return None
        advice = self.aggregator.reduction.advice
        return f"slots have collapsed: on average {live:.2f} of {self.num_slots} are left after reduction. {advice}"

    def features(self, batch: VideoBatch) -> Tensor:
        """Frozen tokens (B,T,N,C): from the batch if it has cached ones, else all frames in one call of the encoder."""
        tokens = self.encoder.features(batch.pixels) if batch.features is None else batch.features
        return tokens.float()

    def scan(
        self, batch: VideoBatch, features: Tensor, draws: Draws, state: CarryState | None = None, merge: bool = True
    ) -> Scan:
        """Aggregate frame after frame, each from the slots of the one before (eq. 8-10 on every frame).

        ``state`` continues an earlier window of the same videos. ``merge=False`` merges no slots. After the end of a
        clip (``frame_valid`` False) its slots are computed but have no meaning; they influence neither other clips nor
        earlier frames.
        """
        tokens = self.projection(features, batch.video)  # (B,T,N,C) all frames at once
        keys, values = self.aggregator.attention.keys_values(tokens)  # (B,T,N,D)
        outputs = []
        for t in range(features.shape[1]):
            reduce = merge and (state is None or not self.settles)
            queries, on, state = self.queries(batch, t, tokens[:, t], draws, state)
            iterations = self.later_iterations
            if state is None:
                iterations = self.first_iterations
                state = CarryState(
                    queries, on, torch.full_like(on, -1, dtype=torch.int64), on.long() * 0, on[:, 0].long() * 0
                )
            drawn = self.aggregator.draw(draws, on) if reduce and self.training else None
            frame = self.aggregator(queries, keys[:, t], values[:, t], on, iterations, state.age, drawn, reduce)
            kept = frame.live if self.settles else frame.carried
            state = carried(state, self.transition.remember(state, frame.slots), kept)
            track_id = state.track_id
            if frame.carried is not frame.live:
                track_id = track_id.masked_fill(~frame.live, -1)
            outputs.append((frame.slots, frame.live, track_id, frame.gate, frame.first, frame.last, frame.num_live))
        columns = (torch.stack(column, 1) for column in zip(*outputs, strict=True))
        slots, live, track_ids, gate, first, last, num_live = columns
        assert state is not None
        first, last = (x.unflatten(-1, self.encoder.grid) for x in (first, last))
        found = (batch.video_id, slots, live, track_ids, last)
        return Scan(*found, gate=gate, first=first, num_live=num_live, state=state)

    def queries(
        self, batch: VideoBatch, t: int, tokens: Tensor, draws: Draws, state: CarryState | None
    ) -> tuple[Tensor, Tensor, CarryState | None]:
        """Query slots (B,S,D), which of them are on (B,S), and the state, in which tracks of re-seeded slots end."""
        if state is None:
            boxes = None if batch.boxes is None else batch.boxes[:, t]
            valid = None if batch.box_valid is None else batch.box_valid[:, t]
            return (*self.initializer(tokens, draws, boxes, valid), None)
        queries = self.transition(state.slots, state.live)
        if self.carry == "persist" or self.settles:
            return queries, state.live, state
        seeds = self.initializer.reseed(len(batch), draws).to(queries.dtype)
        return torch.where(state.live[..., None], queries, seeds), torch.ones_like(state.live), state

    def rehearse(self, batch: VideoBatch, features: Tensor, draws: Draws) -> CarryState:
        """The state after going through clips of one length, ``features`` (B,T,N,C), forwards and then backwards.

        Learned queries need some frames until each stays on one object. Slots are merged once, at the end, by their
        mean distance on the way back, because two objects may look alike on a single frame. (``carry="reseed"`` seeds
        the slots that become free again on the next frame, as after any.)
        """
        state = self.scan(batch, features, draws, merge=False).state
        backwards = replace(batch, video=None if batch.video is None else batch.video.flip(1))
        back = self.scan(backwards, features.flip(1), draws, state, merge=False)
        if self.aggregator.reduction is None:
            return back.state
        state = back.state
        slots, live = self.aggregator.reduction.settled(state.slots, state.live, state.age, back.slots, self.settles)
        return CarryState(slots, live, state.track_id.masked_fill(~live, -1), state.age * live, state.next_id)

    @torch.no_grad()
    def encode(
        self, batch: VideoBatch, draws: Draws, state: CarryState | None = None, rehearse: bool = False
    ) -> tuple[SlotSequence, CarryState]:
        """Slots of every frame, without gradient, and the state for the next window (used by ``dias_video.tracking``).

        Args:
            batch: the clips; boxes of the first frame are used when the batch has them.
            draws: ``Draws.for_videos``, the same object for every window of a video.
            state: the state after the window before; None for the first window.
            rehearse: start from ``rehearse``. Such slots have seen later frames: track with them, but don't predict
                from them.

        Raises:
            ValueError: there are boxes but the model takes none, a rehearsal has clips of several lengths, or a
                rehearsal has boxes.
        """
        if batch.boxes is not None and not self.takes_boxes:
            raise ValueError("this model starts from learned queries and takes no boxes; leave them out (boxes=false)")
        if rehearse and batch.boxes is not None:
            raise ValueError("boxes say where the objects are, there is nothing to rehearse: leave out one of the two")
        if rehearse and not batch.frame_valid.all():
            raise ValueError("clips of several lengths can't be rehearsed together: encode those of one length at once")
        features = self.features(batch)
        if rehearse and state is None:
            state = self.rehearse(batch, features, draws)
        scan = self.scan(batch, features, draws, state)
        if self.mask_source == "decoder":
            known = self.objective.target(features, batch).known
            scan.attention = self.decoder(scan.slots, scan.gate, known).attention.unflatten(-1, self.encoder.grid)
        slots = scan.slots * scan.live[..., None]
        return SlotSequence(batch.video_id, slots, scan.live, scan.track_id, scan.attention), scan.state

    @torch.no_grad()
    def decode_slots(self, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Decode slots (B,T,S,D), live where ``live`` (B,T,S), with every token masked: no feature is used.

        Returns:
            Reconstructed tokens (B,T,N,C), in the form of the objective's known tokens, and the share (B,T,S,h,w) that
            each slot has of each cell.
        """
        decoded = self.decoder(slots * live[..., None], live)
        return self.objective.as_known(decoded.reconstruction), decoded.attention.unflatten(-1, self.encoder.grid)

    def track(
        self,
        video: Tensor,
        boxes: Tensor | None = None,
        box_valid: Tensor | None = None,
        *,
        video_id: str = "video",
        window: int = 24,
        seed: int = 0,
        rehearse: bool = False,
        follow_edges: bool = False,
    ) -> SlotSequence:
        """Track the objects of one video.

        Args:
            video: (T,3,H,W) uint8 RGB.
            boxes: (K,4) normalised xyxy on the first frame, with ``box_valid`` (K,) bool (all valid by default). None:
                the model finds the objects.
            video_id: with ``seed`` it determines the noise of queries, as in a slot cache and in an evaluation.
            window: number of frames that are encoded and decoded at once.
            seed: see ``video_id``.
            rehearse: without boxes, go through the first window forwards and backwards before it is tracked.
            follow_edges: labels end where colours change in the frame, not at the borders of the feature grid's cells.

        Returns:
            Slots, which of them are live, their track ids, and ``labels`` (the owner of every pixel), for B = 1 video,
            on the CPU.

        Raises:
            ValueError: ``video`` has another shape or type or no frame, boxes are out of range, the model takes no
                boxes, or there are both boxes and a rehearsal.
        """
        if video.ndim != 4 or video.shape[1] != 3 or video.dtype != torch.uint8:
            raise ValueError(f"video must be (T,3,H,W) uint8, got {tuple(video.shape)} {video.dtype}")
        if len(video) == 0:
            raise ValueError("the video has no frames")
        index = torch.arange(len(video))[None]
        batch = VideoBatch(video[None], [video_id], index, torch.ones_like(index, dtype=torch.bool))
        if boxes is not None:
            inside = boxes.shape[1:] == (4,) and bool(((boxes >= 0) & (boxes <= 1)).all())  # False for NaN
            if not inside or bool((boxes[:, :2] > boxes[:, 2:]).any()):
                raise ValueError("boxes must be (K,4) normalised xyxy in [0,1], x0 <= x1 and y0 <= y1")
            box_valid = torch.ones(len(boxes), dtype=torch.bool) if box_valid is None else box_valid
            # Only the boxes of the first frame are used.
            batch.boxes = boxes.float().expand(1, len(video), -1, -1)
            batch.box_valid = box_valid.expand(1, len(video), -1)
        options = {"seed": seed, "boxes": boxes is not None, "rehearse": rehearse, "follow_edges": follow_edges}
        (tracked,) = track_videos(self, batch.windows(window), labels=True, **options)
        return tracked


def carried(state: CarryState, slots: Tensor, live: Tensor) -> CarryState:
    """The state after one frame: tracks end where a slot died, continue where it lived before, and begin elsewhere.

    Args:
        state: the state before the frame.
        slots: (B,S,D), from which the next queries are made.
        live: (B,S) bool after the frame.
    """
    beginning = live & (state.track_id < 0)
    new_ids = state.next_id[:, None] + beginning.cumsum(1) - 1  # (B,S)
    track_id = torch.where(beginning, new_ids, state.track_id).masked_fill(~live, -1)
    return CarryState(slots, live, track_id, (state.age + 1) * live, new_ids[:, -1] + 1)
