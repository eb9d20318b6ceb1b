"""Physion's own readout: for every scenario a logistic regression on the features of all frames.

It follows "Physion: Evaluating Physical Prediction from Vision in Humans and Machines" (Bear et al., 2021). There the
input is the concatenated features of whole frames, observed and simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.pooled import pooled

Values = NDArray[np.float64]
STRENGTHS = np.logspace(-8, 2, 11)  # C, the inverse of the L2 penalty; Physion's goes on to 1e8, nearly no penalty


def frame_features(data: LabelledSlots) -> Values:
    """Mean, maximum and minimum over live slots of every channel, for all frames: (V,T*3*D).

    The order of slots has no meaning, so a frame's features must not depend on it. A frame without live slots has
    zeros. Channels with a slot's place are left out.
    """
    own = data.slots.shape[-1] - data.num_places
    return torch.cat([pooled(slots[..., :own], live).flatten(1) for slots, live in data.parts()]).double().numpy()


class Regressions(NamedTuple):
    """Regressions of one scenario with K strengths."""

    scaler: StandardScaler
    weights: Values  # (F,K), for standardised features
    bias: Values  # (K,)
    strengths: Values  # (K,)

    def logits(self, features: Values) -> Values:
        """Logits (V,K) of features (V,F)."""
        return np.asarray(self.scaler.transform(features) @ self.weights + self.bias)


@dataclass
class FittedLogistic:
    """A regression for every scenario."""

    scenarios: dict[str, Regressions]  # each has one strength
    validation_loss: float
    validation_accuracy: float
    threshold: float = 0.0
    form: str = "logistic"
    chosen: str = "strength"  # what was chosen with the answers behind validation_accuracy

    def logits(self, data: LabelledSlots) -> Tensor:
        """Logits (V,), each from its scenario's regression.

        Raises:
            ValueError: a scenario has no regression.
        """
        if unknown := set(data.scenario) - self.scenarios.keys():
            raise ValueError(f"no readout video has scenario {min(unknown)!r}, so there is no regression for it")
        features, logits = frame_features(data), np.empty(len(data))
        for name, members in by_scenario(data).items():
            logits[members] = self.scenarios[name].logits(features[members])[:, 0]
        return torch.from_numpy(logits)

    def correct(self, data: LabelledSlots) -> Values:
        """1.0 where the answer is right, (V,)."""
        return ((self.logits(data) > self.threshold) == data.label.bool()).double().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, as tensors by name."""
        found: dict[str, Values] = {}
        for name, one in self.scenarios.items():
            found |= {f"mean/{name}": one.scaler.mean_, f"scale/{name}": one.scaler.scale_}
            found |= {f"weights/{name}": one.weights, f"bias/{name}": one.bias, f"strengths/{name}": one.strengths}
        return {name: torch.from_numpy(value.copy()) for name, value in found.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], **said: Any) -> FittedLogistic:
        """Build fitted regressions from the ``tensors`` of others."""
        values = {name: value.numpy() for name, value in tensors.items()}
        scenarios = {}
        for name in [key.partition("/")[2] for key in values if key.startswith("mean/")]:
            scaler = StandardScaler()
            scaler.mean_, scaler.scale_ = values[f"mean/{name}"], values[f"scale/{name}"]
            learned = (values[f"{kind}/{name}"] for kind in ("weights", "bias", "strengths"))
            scenarios[name] = Regressions(scaler, *learned)
        return cls(scenarios, **said)


def fit_logistic(data: LabelledSlots, folds: int, seed: int) -> FittedLogistic:
    """Fit a regression for every scenario, with the penalty that has the lowest cross-validated loss.

    Raises:
        ValueError: a scenario has fewer than ``folds`` videos of an answer.
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
            logits[:, kept] = fit_strengths(x[train], y[train], STRENGTHS).logits(x[kept]).T
        best = int(np.argmin([log_loss(y, expit(row)) for row in logits]))
        held_out[members] = logits[best]
        fitted[name] = fit_strengths(x, y, STRENGTHS[best : best + 1])
    return FittedLogistic(
        fitted, float(log_loss(label, expit(held_out))), float(accuracy_score(label > 0, held_out > 0))
    )


def by_scenario(data: LabelledSlots) -> dict[str, NDArray[np.int64]]:
    """The indices of each scenario's videos."""
    names = np.array(data.scenario)
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def fit_strengths(features: Values, label: Values, strengths: Values) -> Regressions:
    """A regression for every strength (K,); each starts from the solution of the one before.

    If there are more features than videos (V,F), the fit is done in the space that the videos span. This gives the same
    regressions with far fewer weights. Features have mean 0, so the matrix of the videos' products is singular. A small
    number is added to it for its Cholesky factor; it is too small to change the result at any strength.
    """
    scaler = StandardScaler()
    x = scaler.fit_transform(features)
    factor = None
    if x.shape[1] > len(x):
        products = x @ x.T
        products[np.diag_indices(len(x))] += 1e-9 * max(products.trace() / len(x), 1.0)
        factor = cholesky(products, lower=True)  # (V,V), coordinates of the videos along V axes
    regression = LogisticRegression(max_iter=10_000, tol=1e-6, warm_start=True)
    weights, bias = [], []
    for strength in strengths.tolist():
        regression.set_params(C=strength).fit(x if factor is None else factor, label)
        weights.append(regression.coef_[0].copy())
        bias.append(float(regression.intercept_[0]))
    columns = np.stack(weights, 1)
    if factor is not None:
        columns = x.T @ solve_triangular(factor, columns, lower=True, trans="T")
    return Regressions(scaler, columns, np.array(bias), strengths)
