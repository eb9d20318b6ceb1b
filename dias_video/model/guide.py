"""Guides: what tells a model's slots from outside, in training, what to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.dias import DIAS, Scan
from dias_video.model.losses import distillation_loss


class MaskTeacher:
    """A trained model whose decoder's masks a student's Slot Attention learns (SPOT: Kakogeorgiou et al. 2024).

    The term ``teacher_masks`` is the cross-entropy of the student's attention of the last iteration with the slot that
    owns each token in the teacher's decoder, slots matched by the IoU of their regions. Their weight is 0.005.

    The teacher is frozen and in evaluation mode, sees the student's features, and draws its queries' noise and its
    order of tokens (a random one, as in training) after the student has drawn everything. The student's file does not
    hold it.

    Args:
        checkpoint: folder of the teacher, with as many slots as the student.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.model = DIAS.from_pretrained(checkpoint).eval().requires_grad_(False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the teacher looks at beside the frames, also where the student does not."""
        return self.model.inputs

    def losses(self, batch: VideoBatch, features: Tensor, scan: Scan, draws: Draws) -> dict[str, Tensor]:
        """``teacher_masks`` (B,).

        Raises:
            ValueError: teacher and student differ in their number of slots, or a teacher of boxes is given none.
        """
        if self.model.num_slots != scan.slots.shape[2]:
            raise ValueError(
                f"the teacher has {self.model.num_slots} slots, the student {scan.slots.shape[2]}; give both as many "
                "(sizes.num_slots)"
            )
        if self.model.takes_boxes and batch.boxes is None:
            raise ValueError(
                "the teacher's first queries come from boxes, and these clips have none; use data with boxes"
            )
        live, masks = self.masks(batch, features, draws)
        assert scan.attention is not None
        with torch.autocast(features.device.type, enabled=False):
            loss = distillation_loss(scan.attention.flatten(-2), masks, live, "hard", batch.frame_valid)
        return {"teacher_masks": loss}

    @torch.no_grad()
    def masks(self, batch: VideoBatch, features: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The teacher's live slots (B,T,S) and its decoder's attention (B,T,S,N)."""
        teacher = self.model.to(features.device)
        scan = teacher.scan(batch, features, draws)
        known = teacher.objective.target(features, batch).known
        return scan.live, teacher.decoder(scan.slots, scan.gate, known, draws).attention
