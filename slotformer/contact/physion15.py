"""The probe, the score and the files of Physion v1.5's official evaluation (neuroailab/physion_evaluator).

One logistic regression for all scenarios reads the features of all shown frames. The score is the plain mean of the
accuracies in the seven scenarios. Features, folds and regression equal those of the official script bit for bit if rows
have the same order: here it is the natural order of the files' names, there that of the file system.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from dias_video.data.chosen import Chosen
from dias_video.data.physion15 import SCENARIOS, Physion15Videos, scenarios_of, stem_of
from dias_video.data.source import VideoSource
from dias_video.stores.files import replace_file, write_json
from slotformer.contact.pooled import Features
from slotformer.statistics import interval, mean_interval

STRENGTHS = (1e-6, 1e-5, 0.01, 0.1, 1, 5, 10, 20)  # C
FOLDS, FOLDS_SEED, ITERATIONS = 5, 42, 20_000
Answers = NDArray[np.float64]


class Clip(NamedTuple):
    """Facts about a clip beside its features."""

    stem: str
    scenarios: tuple[str, ...]
    label: float


def clips_of(source: Physion15Videos) -> list[Clip]:
    """The clips of a split, in the order of its features."""
    stems = [stem_of(source.files(index)[0]) for index in range(len(source))]
    return [Clip(stem, scenarios_of(stem), float(source.label(at).contact)) for at, stem in enumerate(stems)]


def check_source(source: VideoSource, what: str) -> Physion15Videos:
    """The source, if it shows the frames of all clips of a split of Physion v1.5.

    Raises:
        ValueError: it is another source, or has only some clips of a split.
    """
    if isinstance(source, Chosen):
        raise ValueError(f"{what} needs all clips of a split, here are {len(source)}; leave out videos= and on_error=")
    if not isinstance(source, Physion15Videos) or source.task is None:
        raise ValueError(
            f"{what} needs the frames that Physion v1.5 shows: data=physion15 data.task=predict, or data.task=detect"
        )
    return source


class Probe(NamedTuple):
    """A fitted probe."""

    search: GridSearchCV
    strength: float
    train_accuracy: float

    def probabilities(self, features: Features) -> Answers:
        """Probabilities of contact (V,)."""
        return np.asarray(self.search.predict_proba(_rows(features))[:, 1])


def fit_probe(features: Features, labels: Sequence[float]) -> Probe:
    """Fit the official probe on the clips of the train split.

    Features are cast to half precision, as the official script does before it scales them.

    Args:
        features: (V,T,D).
        labels: labels of the clips, 0 or 1.

    Raises:
        ValueError: features exceed half precision, or an answer has fewer than 5 clips.
    """
    label = np.array(labels, np.float64)
    if min(label.sum(), len(label) - label.sum()) < FOLDS:
        raise ValueError(f"the probe needs at least {FOLDS} train clips of either answer")
    x = _rows(features)
    pipeline = Pipeline([("scaler", StandardScaler()), ("clf", LogisticRegression(max_iter=ITERATIONS))])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=FOLDS_SEED)
    with tqdm(total=FOLDS * len(STRENGTHS), desc="probe", unit="fit") as bar:

        def accuracy(fitted: Pipeline, held_out: Features, answers: Answers) -> float:
            bar.update()
            return float(fitted.score(held_out, answers))

        search = GridSearchCV(pipeline, {"clf__C": STRENGTHS}, cv=folds, scoring=accuracy).fit(x, label)
    return Probe(search, float(search.best_params_["clf__C"]), float(search.best_estimator_.score(x, label)))


def _rows(features: Features) -> NDArray[np.float16]:
    """Features (V,T,D) as rows (V,T*D) in half precision.

    Raises:
        ValueError: a value exceeds half precision.
    """
    with np.errstate(over="ignore"):
        rows = features.astype(np.float16).reshape(len(features), -1)
    if not np.isfinite(rows).all():
        raise ValueError("some features are not finite in half precision (over 65,504), in which the probe reads them")
    return rows


def score_rows(probability: Answers, clips: list[Clip]) -> list[dict[str, Any]]:
    """Accuracy in every scenario with bootstrap intervals; ``mean`` is their plain mean, the official score.

    A clip of two scenarios is scored in both. For the interval of the mean, clips are drawn within scenarios.

    Args:
        probability: (V,) probabilities of contact; the answer is contact if it exceeds 0.5.
        clips: the clips of the test split.
    """
    right = np.array([(p > 0.5) == clip.label for p, clip in zip(probability, clips, strict=True)], np.float64)
    groups = {name: right[[name in clip.scenarios for clip in clips]] for name in SCENARIOS}
    rows = [
        dict(zip(("scenario", "accuracy", "low", "high", "clips"), (name, *interval(of), len(of)), strict=True))
        for name, of in groups.items()
    ]
    mean, low, high = mean_interval(list(groups.values()))
    return [*rows, {"scenario": "mean", "accuracy": mean, "low": low, "high": high, "clips": len(right)}]


def check_shown_alike(train: VideoSource, test: VideoSource) -> tuple[Physion15Videos, Physion15Videos]:
    """The two splits, if both show the same frames and can give the official score.

    Raises:
        ValueError: there are other sources, train and test show different frames, or a scenario has no test clip.
    """
    sources = check_source(train, "the probe"), check_source(test, "the probe")
    if len({(source.task, source.frame_gap, source.num_frames) for source in sources}) > 1:
        raise ValueError("train and test clips must be shown alike: one task, one frame_gap and one num_frames")
    if [source.split for source in sources] != ["train", "test"]:
        raise ValueError("the probe is fitted on split=train of Physion v1.5 and scored on split=test")
    there = {scenario for clip in clips_of(sources[1]) for scenario in clip.scenarios}
    if missing := [name for name in SCENARIOS if name not in there]:
        raise ValueError(f"no test clip is of scenario {missing[0]!r}; the score is the mean over all seven scenarios")
    return sources


def exporter(kind: str | None, source: VideoSource) -> Callable[[Path, Features], Path] | None:
    """The function that writes features for ``export=<kind>``; None if ``kind`` is None.

    It is called before features are made, so that errors come early.

    Raises:
        ValueError: the kind is unknown, the source is another, or h5py is not installed.
    """
    if kind is None:
        return None
    if kind != "physion15":
        raise ValueError(f"export={kind} is unknown; choose physion15")
    shown = check_source(source, "export=physion15")
    _h5py()
    return lambda folder, features: export_features(folder, shown, features)


def export_features(folder: Path, source: Physion15Videos, features: Features) -> Path:
    """Write the files of a split for the official readout script: ``{train,test}_features.hdf5`` and two json files.

    Args:
        folder: the folder for the files.
        source: the clips.
        features: (V,T,D), in the order of the clips.

    Returns:
        The HDF5 file.

    Raises:
        ValueError: features are not finite, or h5py is not installed.
    """
    h5py = _h5py()
    if not np.isfinite(features).all():
        raise ValueError(
            f"features of {source.info(int(np.argwhere(~np.isfinite(features))[0, 0])).video_id} are not finite"
        )
    clips, indices = clips_of(source), range(len(source))
    paths = [str(source.files(index)[0].resolve()) for index in indices]
    rows = {name: [at for at in indices if name in clips[at].scenarios] for name in SCENARIOS}
    folder.mkdir(parents=True, exist_ok=True)

    def write(aside: Path) -> None:
        with h5py.File(aside, "w") as file:
            file["features"] = features
            file["label"] = np.array([clip.label for clip in clips], np.float64)
            file.create_dataset("filenames", data=paths, dtype=h5py.string_dtype())
            file["frame_labels"] = np.array([source.label(index).frame for index in indices], np.int64)

    whole = folder / f"{source.split}_features.hdf5"
    replace_file(whole, write)
    write_json(folder / f"{source.split}_json.json", rows)
    places = {path: at for at, path in enumerate(paths)}
    write_json(folder / f"{source.split}_scenario_map.json", places)
    return whole


def _h5py() -> Any:
    """The library h5py, which only the export needs.

    Raises:
        ValueError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ValueError("export=physion15 needs h5py; install it with pip install 'dias-video[physion15]'") from error
    return h5py
