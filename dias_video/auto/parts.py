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
from dias_video.model.clusters import kmeans
from dias_video.model.dias import DIAS

OBJECT_PARTS, REST_PARTS = 4, 12  # the most parts of a given object, and of the rest of the frame
INSIDE = 0.5  # how much of a part a box has to hold (``parts_boxed``)
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


def parts_given(looks: Tensor, cover: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Parts of objects whose cells are known on the first frame, and of the rest of the frame.

    The cells of an object, and those of the rest, are divided into a few clusters.

    Args:
        looks: (N,D) tokens of the first frame as slots see them.
        cover: (K,N) the part of each cell that each object covers, in [0,1].
        draws: the random numbers of the video.

    Returns:
        Centres (S,D), and the thing (S,) that each is a part of: 0 is the rest, 1 to K are the objects.
    """
    centres, group = [], []
    for thing, cells in enumerate(cells_given(cover)):
        most = OBJECT_PARTS if thing else REST_PARTS
        found = kmeans(looks[cells].cpu(), max(1, min(most, len(cells) // CELLS_EACH)), draws).to(looks)  # (p,D)
        centres.append(found)
        group.append(torch.full((len(found),), thing))
    return torch.cat(centres), torch.cat(group)


def parts_boxed(owner: Tensor, looks: Tensor, cover: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of objects of which only boxes on the first frame are known: parts that were found in the whole video.

    A part belongs to the box that holds most of it; of equal boxes, to the smallest. A part that is spread evenly over
    the frame counts as 0, one that lies in the box as 1, and more than ``INSIDE`` is needed. So what is behind an
    object stays with the rest, although the box shows some of it. An object without a part gets a new one, the mean of
    its cells, and so does the rest.

    Args:
        owner: (N,S) one-hot, the part that owns each cell of the first frame.
        looks, cover: as for ``parts_given``.

    Returns:
        Centres (R,D) of the new parts, and the thing (S+R,) of each part, the new ones last: 0 is the rest, 1 to K are
        the objects.
    """
    held = cover @ owner / owner.sum(0).clamp_min(1)  # (K,S)
    area = cover.mean(1, keepdim=True)
    inside = (held - area) / (1 - area).clamp_min(1e-6)
    order = area.flatten().argsort()  # the first of equal maxima counts: the smallest box
    rest = inside.new_full((1, owner.shape[1]), INSIDE)
    things = torch.cat([order.new_zeros(1), order + 1])
    group = things[torch.cat([rest, inside[order]]).argmax(0)].cpu()  # (S,)
    cells = cells_given(cover)
    missing = [thing for thing in range(len(cells)) if thing not in group]
    new = looks.new_zeros(len(missing), looks.shape[1])
    for row, thing in enumerate(missing):
        new[row] = looks[cells[thing]].mean(0)
    return new, torch.cat([group, torch.tensor(missing, dtype=torch.int64)])


def cells_given(cover: Tensor) -> list[Tensor]:
    """The cells of the rest, and then of each object, each (n,) int64 with n > 0, of ``cover`` (K,N) in [0,1].

    An object has the cells that it covers at least by half, or the most covered ones, where there are none. A cell that
    several objects cover belongs to the smallest.
    """
    owner = torch.zeros(cover.shape[1], dtype=torch.int64, device=cover.device)
    for k in cover.sum(1).argsort(descending=True).tolist():  # smaller objects come later and take over cells
        owner[cover[k] >= cover[k].max().clamp(max=0.5)] = k + 1
    found = [(owner == thing).nonzero().flatten() for thing in range(len(cover) + 1)]
    for thing, cells in enumerate(found):
        if not len(cells):  # smaller objects cover the whole object, or objects cover the whole frame
            found[thing] = (cover[thing - 1].argmax() if thing else cover.amax(0).argmin())[None]
    return found
