"""Slots as parts of things: the slots of one thing form one track."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.batch import CarryState, SlotSequence, VideoBatch
from dias_video.draws import Draws
from dias_video.model.clusters import kmeans, squared_distances
from dias_video.model.dias import DIAS

OBJECT_PARTS, REST_PARTS = 4, 12  # the most parts of a given object, and of the rest of the frame
CELLS_EACH = 4  # approximate number of cells for each part
TOUCH = 0.2
APART = 0.5
COLOUR = 0.2  # weight of distances between opponent colours, whose variance is about 1 (``Encoder.OPPONENT``)


class PartsModel:
    """A DIAS whose slots live for the whole video and are parts of things; ``encode`` returns one slot for each thing.

    The slot of a thing is the mean of its parts, weighted by the number of cells that each owns. A thing owns the cells
    of its parts.

    Args:
        model: has ``carry="persist"`` and merges nothing.
        group: (S,) int64 from 0 to G - 1 without gaps: the thing, which is also the track, of each slot.
    """

    takes_boxes = False

    def __init__(self, model: DIAS, group: Tensor) -> None:
        self.model = model
        self.member = F.one_hot(group).T.float()  # (G,S)

    @property
    def num_slots(self) -> int:
        """Number of things, G."""
        return len(self.member)

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.model.training

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""
        self.model.train(mode)
        return self

    def parameters(self) -> Iterator[Any]:
        """The model's weights."""
        return self.model.parameters()

    def encode(
        self, batch: VideoBatch, draws: Draws, state: CarryState | None = None, rehearse: bool = False
    ) -> tuple[SlotSequence, CarryState]:
        """As ``DIAS.encode``, with slots of things; the state is that of the parts."""
        found, state = self.model.encode(batch, draws, state, rehearse)
        assert found.attention is not None
        member = self.member.to(found.attention)
        attention = torch.einsum("gs,btshw->btghw", member, found.attention)
        cells = found.attention.sum((-2, -1))  # (B,T,S)
        weight = member * cells[..., None, :] + 1e-6 * member  # (B,T,G,S)
        slots = weight / weight.sum(-1, keepdim=True) @ found.slots.to(weight)
        live = torch.ones(slots.shape[:3], dtype=torch.bool, device=slots.device)
        track_id = torch.arange(self.num_slots, device=slots.device).expand(live.shape)
        return replace(found, slots=slots, live=live, track_id=track_id, attention=attention), state


def owned(attention: Tensor) -> Tensor:
    """Which slot owns each cell, one-hot: attention (M,S,h,w) to (M,h,w,S) float."""
    return F.one_hot(attention.argmax(1), attention.shape[1]).float()


def groups_of(tokens: Tensor, colours: Tensor, owner: Tensor, alike: float, count: int | None = None) -> Tensor:
    """The thing of each slot: (S,) int64, from 0 on without gaps.

    The two groups with the smallest difference are joined repeatedly. The difference is the cosine distance between the
    means of their tokens (after subtracting the mean of all tokens), plus ``COLOUR`` times the distance between their
    mean colours. Only neighbours are joined: they share at least ``TOUCH`` of the border of one of them. Separate
    things of one kind usually don't touch, but parts of one thing do.

    Args:
        tokens: (M,N,C) of the plain encoder.
        colours: (M,N,3) mean colour of each cell.
        owner: (M,h,w,S) as from ``owned``; every slot owns a cell.
        alike: the largest difference of two groups that are joined.
        count: the number of groups to reach instead; then groups that don't touch may be joined, and their difference
            is larger by ``APART``.
    """
    cells = owner.flatten(1, 2)  # (M,N,S)
    directions = F.normalize(tokens - tokens.mean((0, 1)), dim=-1)
    looks = torch.einsum("mns,mnc->sc", cells, directions).double().cpu()  # sums, so that those of groups can be added
    paint = torch.einsum("mns,mnc->sc", cells, colours).double().cpu()
    sizes, borders = cells.sum((0, 1)).double().cpu(), borders_of(owner).double().cpu()
    group = torch.arange(len(sizes))
    while (number := int(group.max()) + 1) > (count or 1):
        member = F.one_hot(group, number).T.double()  # (G,S)
        between = (member @ borders @ member.T).fill_diagonal_(0)
        around = between.sum(1)
        touching = between / torch.minimum(around[:, None], around).clamp_min(1) >= TOUCH
        means = F.normalize(member @ looks, dim=-1)
        mean_paint = member @ paint / (member @ sizes)[:, None]
        different = 1 - means @ means.T + COLOUR * torch.cdist(mean_paint, mean_paint)
        apart = torch.inf if count is None else APART
        different = torch.where(touching, different, different + apart).fill_diagonal_(torch.inf)
        if count is None and different.min() >= alike:
            break
        one, other = sorted(divmod(int(different.argmin()), number))
        group[group == other] = one
        group[group > other] -= 1
    return group


def borders_of(owner: Tensor) -> Tensor:
    """Number of sides that cells of two slots share, over all frames: owner (M,h,w,S) to (S,S), diagonal zero."""
    below = torch.einsum("mhws,mhwr->sr", owner[:, 1:], owner[:, :-1])
    beside = torch.einsum("mhws,mhwr->sr", owner[:, :, 1:], owner[:, :, :-1])
    shared = below + below.T + beside + beside.T
    return shared.fill_diagonal_(0)


def parts_given(
    looks: Tensor, tokens: Tensor, cover: Tensor, alike: float | None, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Parts of objects that are given on the first frame, and of the rest of the frame.

    Each object is divided into a few clusters of the cells that it covers at least by half (or of the most covered
    cells, where there are none). The rest of the frame is divided into more clusters. A cell that several objects cover
    belongs to the smallest.

    Args:
        looks: (N,D) tokens of the first frame as slots see them.
        tokens: (M,N,C) of the plain encoder, those of the first frame first.
        cover: (K,N) the part of each cell that each object covers, in [0,1].
        alike: a part of an object belongs to the rest if its tokens are closer than this to a part of the rest, as in
            the corners of a box. The part that differs most stays with the object. None: all that is covered belongs to
            the object.
        draws: the random numbers of the video.

    Returns:
        Centres (S,D), and the thing (S,) that each is a part of: 0 is the rest, 1 to K are the objects.
    """
    directions = F.normalize(tokens - tokens.mean((0, 1)), dim=-1)[0]  # (N,C)
    owner = torch.zeros(len(looks), dtype=torch.int64, device=looks.device)
    for k in cover.sum(1).argsort(descending=True).tolist():  # smaller objects come later and take over cells
        owner[cover[k] >= cover[k].max().clamp(max=0.5)] = k + 1
    centres, group, rest = [], [], directions[:0]
    for thing in range(len(cover) + 1):
        cells = (owner == thing).nonzero().flatten()
        if not len(cells):  # smaller objects cover the whole object, or objects cover the whole frame
            cells = (cover[thing - 1].argmax() if thing else cover.amax(0).argmin())[None]
        most = OBJECT_PARTS if thing else REST_PARTS
        found = kmeans(looks[cells].cpu(), max(1, min(most, len(cells) // CELLS_EACH)), draws).to(looks)  # (p,D)
        member = F.one_hot(squared_distances(looks[cells], found).argmin(1), len(found)).T.float()
        means = F.normalize(member @ directions[cells], dim=-1)  # (p,C)
        things = torch.full((len(found),), thing)
        if not thing:
            rest = means
        elif alike is not None:
            distance = (1 - means @ rest.T).amin(1).cpu()
            things[(distance < alike) & (distance < distance.max())] = 0
        centres.append(found)
        group.append(things)
    return torch.cat(centres), torch.cat(group)
