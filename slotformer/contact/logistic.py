"""Physion's own readout: logistic regression on the features of all frames, one for every scenario.

After "Physion: Evaluating Physical Prediction from Vision in Humans and Machines" (Bear et al., 2021), where it reads
the features of whole frames, observed and simulated, one frame after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from slotformer.contact.labelled import LabelledSlots

Values = NDArray[np.float64]
STRENGTHS = np.logspace(-8, 2, 11)  # C, the inverse of the L2 penalty


def frame_features(data: LabelledSlots) -> Values:
    """Mean, maximum and minimum over live slots of every channel, frame after frame: (V,T*3*D).

    The order of slots means nothing, so a frame's features must not depend on it. A frame without live slots has zeros.
    Channels that hold a slot's place are left out.
    """
    own = data.slots.shape[-1] - data.num_places
    slots, live = data.slots[..., :own], data.live[..., None]
    count = live.sum(2)  # (V,T,1)
    mean = (slots * live).sum(2) / count.clamp(min=1)
    ends = [slots.masked_fill(~live, -torch.inf).amax(2), slots.masked_fill(~live, torch.inf).amin(2)]
    return torch.cat([mean, *(end.where(count > 0, 0.0) for end in ends)], -1).flatten(1).double().numpy()


@dataclass
class FittedLogistic:
    """A regression for every scenario."""

    scenarios: dict[str, tuple[Pipeline, LogisticRegression]]
    validation_loss: float
    validation_accuracy: float
    threshold: float = 0.0
    form: str = "logistic"

    def logits(self, data: LabelledSlots) -> Tensor:
        """Logits (V,), each from its scenario's regression.

        Raises:
            ValueError: a scenario that none was fitted for.
        """
        if unknown := set(data.scenario) - self.scenarios.keys():
            raise ValueError(f"no readout video has scenario {min(unknown)!r}, so there is no regression for it")
        features, logits = frame_features(data), np.empty(len(data))
        for name, members in by_scenario(data).items():
            prepare, regression = self.scenarios[name]
            logits[members] = regression.decision_function(prepare.transform(features[members]))
        return torch.from_numpy(logits)

    def correct(self, data: LabelledSlots) -> Values:
        """1.0 where the answer is right, (V,)."""
        return ((self.logits(data) > self.threshold) == data.label.bool()).double().numpy()


def fit_logistic(data: LabelledSlots, folds: int, seed: int) -> FittedLogistic:
    """Fit a regression for every scenario; its penalty is the one with the lowest cross-validated loss.

    Raises:
        ValueError: a scenario with fewer than ``folds`` videos of either answer.
    """
    features, label = frame_features(data), data.label.numpy()
    fitted, held_out = {}, np.empty(len(data))
    for name, members in by_scenario(data).items():
        x, y = features[members], label[members]
        if min(y.sum(), len(y) - y.sum()) < folds:
            raise ValueError(
                f"scenario {name!r} has fewer than readout.folds={folds} readout videos of one answer; lower "
                f"readout.folds, or leave out readout form logistic"
            )
        logits = np.empty((len(STRENGTHS), len(y)))
        for train, kept in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, y):
            prepare = preparation().fit(x[train])
            for row, strength in zip(logits, STRENGTHS, strict=True):
                regression = _regression(strength).fit(prepare.transform(x[train]), y[train])
                row[kept] = regression.decision_function(prepare.transform(x[kept]))
        best = int(np.argmin([log_loss(y, expit(row)) for row in logits]))
        held_out[members] = logits[best]
        prepare = preparation().fit(x)
        fitted[name] = prepare, _regression(STRENGTHS[best]).fit(prepare.transform(x), y)
    return FittedLogistic(
        fitted, float(log_loss(label, expit(held_out))), float(accuracy_score(label > 0, held_out > 0))
    )


def preparation() -> Pipeline:
    """Standardise, then turn to the axes that the videos span: the regression is the same, with far fewer weights."""
    return make_pipeline(StandardScaler(), PCA())


def by_scenario(data: LabelledSlots) -> dict[str, NDArray[np.int64]]:
    """Which videos each scenario has."""
    names = np.array(data.scenario)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def _regression(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=10_000, tol=1e-6)
