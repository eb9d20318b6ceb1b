"""Guides: further losses for slots in training, from a trained teacher."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.dias import DIAS, Scan
from dias_video.model.encoders import Encoder
from dias_video.model.losses import distillation_loss
from dias_video.pretrained.weights import encoder_hash


class MaskTeacher:
    """A trained model whose decoder's masks a student's Slot Attention learns (SPOT: Kakogeorgiou et al. 2024).

    The term ``teacher_masks`` is a cross-entropy: the label of a token is the slot that owns it in the teacher's
    decoder, and the prediction is the student's attention of the last iteration. Slots are matched by the IoU of their
    regions. SPOT gives the term the weight 0.005.

    The teacher is frozen and in evaluation mode, and is given the student's features. It draws the noise of its queries
    and, if its decoder answers for known tokens, a random order of tokens (as in training) after all draws of the
    student. The student's checkpoint does not contain the teacher.

    Args:
        checkpoint: folder of the teacher, which must have as many slots as the student.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.model = DIAS.from_pretrained(checkpoint).eval().requires_grad_(False)

    def inputs(self, cached: Collection[str] = ()) -> set[str]:
        """What the teacher needs of a batch, as ``DIAS.inputs``."""
        return self.model.inputs(cached)

    def check(self, encoder: Encoder) -> None:
        """Raise ValueError if the teacher was trained on the features of another encoder."""
        if encoder_hash(self.model.encoder) != encoder_hash(encoder):
            raise ValueError(
                f"the teacher in {self.model.read_from} was trained on the features of another encoder than "
                "model.encoder; give the student the same options and weights, or train a teacher on these"
            )

    def losses(self, batch: VideoBatch, features: Tensor, scan: Scan, draws: Draws) -> dict[str, Tensor]:
        """``teacher_masks`` (B,).

        Raises:
            ValueError: teacher and student have different numbers of slots, or the teacher needs boxes and the batch
                has none.
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
        """The teacher's live slots (B,T,S) and its decoder's attention (B,T,S,N).

        A decoder that does not answer for known tokens is read as in evaluation, without a drawn order.
        """
        teacher = self.model.to(features.device)
        scan = teacher.scan(batch, features, draws)
        known = teacher.objective.target(features, batch).known
        order = draws if teacher.decoder.answers_known else None
        return scan.live, teacher.decoder(scan.slots, scan.gate, known, order).attention
