"""Every table and figure of README and docs is that of its raw file in ``results`` or ``benchmarks/results``."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dias_video.model.dias import MASK_SOURCES
from slotformer.statistics import interval

ROOT = Path(__file__).parents[1]


def figures(folder: str) -> dict[tuple[str, ...], dict[str, float]]:
    """The rows of a table's raw file by their texts."""
    with (ROOT / "results" / folder).open() as file:
        rows = list(csv.DictReader(file))
    texts = ("kind", "method", "row", "step", "mask_source")
    return {
        tuple(row[t] for t in texts if t in row): {k: float(v) for k, v in row.items() if k not in texts}
        for row in rows
    }


def by_video(file: str) -> dict[str, NDArray[np.float64]]:
    """FG-ARI, mBO and ocb ARI of every video of a raw file."""
    names = ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari")
    with (ROOT / "results" / file).open() as opened_file:
        return {row["video_id"]: np.array([float(row[n]) for n in names]) for row in csv.DictReader(opened_file)}


def rows_of(title: str, page: str = "docs/results.md") -> list[list[str]]:
    """The table of a section of a page, head first."""
    section = (ROOT / page).read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return [lines[0], *lines[2:]]


def trained(clips: str, row: str, masks: str, folder: str) -> list[dict[str, str]]:
    """All scores of a trained row; none if there are none."""
    with (ROOT / f"results/{folder}/scores.csv").open() as file:
        return [r for r in csv.DictReader(file) if (r["set"], r["row"], r["mask_source"]) == (clips, row, masks)]


def ends(clips: str, row: str, masks: str, folder: str = "rows") -> list[dict[str, str]]:
    """The last scores of every seed of a trained row."""
    rows = trained(clips, row, masks, folder)
    last = max(int(r["step"]) for r in rows)
    return [r for r in rows if int(r["step"]) == last]


def of_seeds(scores: list[dict[str, str]], measure: str) -> str:
    """Mean and sample deviation over seeds."""
    values = [float(score[measure]) for score in scores]
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def whitened(clips: str) -> str:
    """FG-ARI of the small model's recipe on DINOv2's features, from boxes, masks that follow edges."""
    named = {
        "clips": clips,
        "told": "boxes",
        "row": "full",
        "updates": "3000",
        "mask_source": "aggregation",
        "edges": "yes",
    }
    with (ROOT / "results/whitened/scores.csv").open() as file:
        (one,) = (row for row in csv.DictReader(file) if named.items() <= row.items())
    return f"{float(one['video-fg/fg_ari']):.2f}"


OVERALL = ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari")


@functools.cache
def videos_of(
    folder: str, names: tuple[str, ...]
) -> dict[tuple[str, str, str], dict[tuple[str, str], NDArray[np.float64]]]:
    """The measures ``names`` by seed and video, for every set, row and kind of masks."""
    found: dict[tuple[str, str, str], dict[tuple[str, str], NDArray[np.float64]]] = {}
    with (ROOT / f"results/{folder}/videos.csv").open() as file:
        for r in csv.DictReader(file):
            scores = np.array([float(r[name] or "nan") for name in names])
            found.setdefault((r["set"], r["row"], r["mask_source"]), {})[r["seed"], r["video_id"]] = scores
    return found


def more(
    clips: str, row: str, other: str, masks: str, folder: str = "rows", names: tuple[str, ...] = OVERALL
) -> list[str]:
    """How much more a row scores than another: means and 95 % intervals over videos, of the means over its seeds."""
    scores, others = (videos_of(folder, names)[clips, one, masks] for one in (row, other))
    assert scores.keys() <= others.keys()
    seeds, videos = (sorted(set(part)) for part in zip(*scores, strict=True))
    gains = [[scores[s, v] - others[s, v] for v in videos] for s in seeds]
    return [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in interval(np.mean(gains, 0)).T]


def check_trained_rows() -> None:
    """The tables of trained rows, and what is said of them."""
    head, *rows = rows_of("DIAS beside plain Slot Attention", "docs/notebook.md")
    assert len(rows) == 4 * 2 * 2 + 1 + 2 + 2
    with (ROOT / "results/rows/beside.csv").open() as file:
        beside = {(r["set"], r["row"]): r for r in csv.DictReader(file) if r["edges"] == "false"}
    updates = {("toss-A", "learned"): "10000", ("toss-A", "boxes"): "10000", ("toss-D", "boxes"): "8000"}
    for clips, queries, steps, row, masks, *cells in rows:
        told = ["boxes"] if queries == "boxes" else []
        if masks:
            (end,) = ends(", ".join([clips, *told, steps.replace(",", "")]), row, masks)
        else:
            end = beside[", ".join([clips, *told, updates[clips, queries]]), row]
        measured = ["" if measure.endswith("fg_ari") and clips == "davis" else end[measure] for measure in head[5:]]
        assert cells == [value and f"{float(value):.3f}".replace("-0.000", "0.000") for value in measured]
    text = " ".join((ROOT / "docs/notebook.md").read_text().split())
    fg_ari, mbo, _ = more("toss-A, 10000", "full", "plain", "decoder")
    assert f"without boxes, decoder's masks, {fg_ari} FG-ARI and {mbo} mBO;" in text
    fg_ari, mbo, _ = more("toss-A, boxes, 10000", "full", "plain", "aggregation")
    assert f"with boxes, aggregation's masks, {fg_ari} FG-ARI and {mbo} mBO." in text
    measures = ("video-fg/fg_ari", "video-fg/per_frame/fg_ari")
    head, *rows = rows_of("What each technique is worth")
    assert len(rows) == 6 + 5 + 5
    for clips, queries, row, *cells in rows:
        worth = f"{clips}, boxes, 5000" if queries == "boxes" else f"{clips}, 5000"
        seeds = ends(worth, row, "decoder", "half")
        expected = [of_seeds(seeds, measure) for measure in (*measures, "video-fg/mbo", "ocb/ari")]
        expected += ["", ""] if row == "full" else more(worth, row, "full", "decoder", "half", measures)
        settled = trained(worth, row, "decoder", "half_settled")
        expected.append(of_seeds(settled, "video-fg/fg_ari") if settled else "")
        lost = row == "full" or not settled
        expected.append("" if lost else more(worth, row, "full", "decoder", "half_settled", measures)[0])
        assert cells == expected, (clips, queries, row)
    worth = "toss-A, boxes, 5000"
    for title, clips, name in (
        ("Why the faithful recipe falls short: one factor at a time", "why, 2000", WHY),
        ("The paper's other systems on DINOv2's features", worth, {}),
    ):
        _, *rows = rows_of(title, "docs/notebook.md")
        rows = [row for row in rows if len(row) == 7 and row[0] not in ("row", "---")]
        assert len(rows) == (11 if name else 3)
        for row, *cells in rows:
            expected = []
            for measure, masks in product(("video-fg/fg_ari", "video-fg/mbo", "ocb/ari"), ("decoder", "aggregation")):
                (end,) = ends(clips, name.get(row.strip("`"), row.strip("`")), masks)
                expected.append(f"{float(end[measure]):.3f}")
            assert cells == expected, row


def test_the_tables_of_the_papers_systems_are_those_of_their_raw_files() -> None:
    page = (ROOT / "docs/notebook.md").read_text()
    section = page.split("## One table of the paper's other systems\n")[1].split("\n## ")[0]
    measures = ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari")
    with (ROOT / "results/systems/runs.csv").open() as file:
        known = {(run["set"], run["row"]) for run in csv.DictReader(file)}
    shown = set()
    for clips, table in re.findall(r"On (toss-\w):\n\n((?:\|.*\n)+)", section):
        for line in table.splitlines()[2:]:
            row, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
            shown.add((clips, row))
            decoder, aggregation = (ends(clips, row, masks, "systems") for masks in MASK_SOURCES)
            expected = [of_seeds(aggregation, measure) for measure in measures]
            start = "untrained_learned" if row in ("bo_qsa", "spot_teacher") else "untrained"
            is_start = row.startswith("untrained")
            expected += ["", ""] if is_start else more(clips, row, start, "aggregation", "systems")[:2]
            expected += [of_seeds(decoder, measure) for measure in measures[:2]]
            assert cells == [*expected, "" if row == "full" else more(clips, row, "full", "decoder", "systems")[1]], row
    assert shown == known
    with (ROOT / "results/systems/life.csv").open() as file:
        for r in csv.DictReader(file):
            losses = f"| {float(r['own']):.3f} | {float(r['rolled']):.3f} | {float(r['standard_errors']):.1f} |"
            assert f"| `{r['row']}` {losses}\n" in section
    with (ROOT / "results/systems/without_teacher.csv").open() as file:
        alone = [f"{float(r[measure]):.3f}" for r in csv.DictReader(file) for measure in measures[:2]]
    assert "FG-ARI {} and mBO {}, and its decoder's masks are better, {} and {} (".format(*alone) in section
    with (ROOT / "results/systems/longer.csv").open() as file:
        for r in csv.DictReader(file):
            assert f"{float(r[measures[0]]):.3f} and {float(r[measures[1]]):.3f}" in section, r
    with (ROOT / "results/systems/kmeans.csv").open() as file:
        for r in csv.DictReader(file):
            if r["split"] == "test":
                assert re.search(rf"{float(r[measures[0]]):.3f} and (mBO )?{float(r[measures[1]]):.3f}", section), r


WHY = {  # the options of its rows, and what the raw file calls them
    "as it is": "as_it_is",
    "trainer.batch_size=32": "batch_32",
    "trainer.weights.distillation.end=1.0": "distillation_1.0",
    "data.transform.flip=0.5": "flips",
    "data.clip.num_frames=1": "frames_1",
    "data.clip.num_frames=6": "frames_6",
    "model.aggregator.reduction.warmup=0": "merging_at_once",
    "trainer.optimization.lr=1e-3": "rate_1e-3",
    "sizes.slot_dim=256": "slots_256_wide",
    "model.teacher=soft": "soft",
    "sizes.width=384 model.decoder.num_layers=4": "wide",
}


@pytest.mark.parametrize(("folder", "runs_at_least"), [("rows", 50), ("half", 50), ("half_settled", 35)])
def test_videos_of_trained_rows_have_the_means_that_are_their_scores(folder: str, runs_at_least: int) -> None:
    with (ROOT / f"results/{folder}/videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = {tuple(r[name] for name in ("set", "row", "seed", "mask_source")) for r in rows}
    assert len(runs) >= runs_at_least
    for clips, row, seed, masks in runs:
        (end,) = (e for e in ends(clips, row, masks, folder) if e["seed"] == seed)
        own = [r for r in rows if (r["set"], r["row"], r["seed"], r["mask_source"]) == (clips, row, seed, masks)]
        for measure in ("video-fg/fg_ari", "video-fg/mbo", "ocb/ari"):
            values = [float(r[measure]) for r in own if r[measure]]
            if not end[measure]:  # FG-ARI of clips with one object
                continue
            found = np.mean(values)
            assert found == pytest.approx(float(end[measure]), abs=1e-4), (clips, row, measure)


def test_results_are_those_of_their_raw_files() -> None:
    raw = figures("surprise/shipped.csv")
    head, *rows = rows_of("Measured", "docs/surprise.md")
    for (method, *cells), (kind_at, kind) in product(rows, enumerate(head[1:])):
        cell, found = cells[kind_at], raw[kind, method.strip("`")]
        assert cell == f"{found['rate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]", (method, kind)
    check_trained_rows()
    head, *rows = rows_of("DIAS beside plain Slot Attention, on a CPU", "docs/notebook.md")
    raw = figures("rows_cpu/scores.csv")
    assert [tuple(row[:3]) for row in rows] == list(raw)
    for row, step, source, *cells in rows:
        assert cells == [f"{raw[row, step, source][name]:.3f}" for name in head[3:]]
    text = " ".join((ROOT / "docs/notebook.md").read_text().split())
    full, plain = (by_video(f"rows_cpu/{row}_5000_decoder.csv") for row in ("full", "plain"))
    assert full.keys() == plain.keys()
    more = interval(np.array([full[name] - plain[name] for name in full]))  # (3, measures)
    fg_ari, mbo, ocb_ari = (f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in more.T)
    assert f"have {mbo} more mBO than those of `plain`, {ocb_ari} more ocb ARI and {fg_ari} more FG-ARI" in text
    head, *rows = rows_of("The same on a CPU, with masks that follow edges", "docs/notebook.md")
    assert len(rows) == 4
    for masks, *cells in rows:
        file, method = (masks, "model") if masks in MASK_SOURCES else ("aggregation", masks)
        assert cells == means(f"rows_cpu/edges_{file}.csv", method, head[1:], 64)
    card = "`dias/`: temporal DIAS, 0.7 M parameters", "dias_video/assets/CARD.md"
    for place in (("The small model of the package",), card):
        head, *rows = rows_of(*place)
        assert len(rows) == 5
        for told, method, *cells in rows:
            name = told.replace(" ", "_")
            assert cells == means(f"toss_a/{name}.csv", method, head[2:], 64)
    head, *rows = rows_of("What the small model's start is worth", "docs/notebook.md")
    assert len(rows) == 2
    for attention, masks, *cells in rows:
        assert cells == means(f"tiny/{attention.replace(' ', '_')}_{masks}.csv", "model", head[2:], 64)
    head, *rows = rows_of("SlotContrast's contrast on toss-D, shortened", "docs/notebook.md")
    for row, *cells in rows:
        assert cells == means("slotcontrast/toss_d.csv", row, head[1:], 64)
    head, *rows = rows_of("A model of each video")
    for clips, number, seeds, method, *cells in rows:
        found = over_seeds(f"own/{clips}.csv", method, head[4:], int(number), int(seeds))
        if clips.startswith("davis"):  # clips of one object, of which FG-ARI says nothing
            found[head[4:].index("video-fg/fg_ari")] = ""
        assert cells == found, (clips, method)


def test_every_score_of_a_table_is_defined() -> None:
    defined = (ROOT / "docs/evaluation.md").read_text()
    lines = [line for line in (ROOT / "docs/results.md").read_text().splitlines() if line.startswith("|")]
    scores = set(re.findall(r"(?:video-fg|ocb|tracking)/\w+", "\n".join(lines)))
    assert {"video-fg/fg_ari", "ocb/mbo", "tracking/j_and_f"} <= scores
    assert [score for score in sorted(scores) if f"`{score}`" not in defined] == []


def test_figures_of_the_readme_are_those_of_their_raw_files() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())

    def mean(file: str, method: str, measure: str, videos: int) -> str:
        return f"{by_seed(file, method, [measure], videos).mean():.2f}"

    fg_ari, mbo, davis = "video-fg/fg_ari", "video-fg/mbo", "own/davis_224.csv"
    plain, white = "baselines/kmeans_plain", "baselines/kmeans"
    of_boxes = mean("toss_a/first_boxes.csv", "model", fg_ari, 64)
    assert f"FG-ARI {of_boxes} with first-frame boxes, 64 unseen clips" in text
    one, other = (mean("own/toss_a.csv", method, fg_ari, 24) for method in ("model", white))
    assert f"24 simulated clips: FG-ARI {one}; k-means on the same features {other}." in text
    one, other, third = (mean(davis, method, mbo, 20) for method in ("model", white, plain))
    assert f"20 DAVIS clips: mBO {one}; k-means {other}, on features not whitened {third} " in text
    recipe = "The small model's recipe, first-frame boxes, masks that follow edges:"
    assert f"{recipe} FG-ARI {whitened('toss-A')} (3 to 6 bodies) and {whitened('toss-D')} (5 to" in text
    found = []
    for row in ("full", "plain"):
        (end,) = ends("toss-A, 10000", row, "decoder")
        found += [f"{float(end[name]):.2f}" for name in (fg_ari, "ocb/ari")]
    assert "FG-ARI {}, ARI with the background {}; plain Slot Attention {} and {} (".format(*found) in text
    found = []
    for clips in ("davis, slots of 64, 5000", "davis, 7000"):
        (end,) = ends(clips, "no_distillation", "decoder", "half")
        found.append(f"{float(end[mbo]):.2f}")
    assert "with positions: DAVIS mBO {} in one of two trainings, {} in the other (best".format(*found) in text
    rate = figures("surprise/shipped.csv")["all", "model"]["rate"]
    assert f"more surprised by the impossible clip in {rate:.2f} of 80 pairs" in text
    costs = {row["what"]: row for row in csv.DictReader((ROOT / "results/costs.csv").open())}
    demo, tests = (f"{float(costs[what]['wall_s']) / 60:.1f} minutes" for what in ("the demo", "the tests"))
    assert f"`make demo` takes {demo} and `make test` {tests} on two free CPU cores" in text
    uv = float(costs["an environment by uv"]["wall_s"]) / 60
    assert f"uv makes one in {uv:.1f} minutes" in text
    steps = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())["training"]["rows"]
    clip = {row["name"]: row["seconds"] for row in steps if row["group"] == "training step, ytvis, batch 1"}
    assert f"takes {200 * 2 * clip['ours, bfloat16'] / 60:.0f} minutes of it, extrapolated" in text
    cpu = {what: f"{row['cpu_s']} s" for what, row in costs.items()}
    world_model = (ROOT / "docs/world_model.md").read_text()
    assert f"takes {cpu['the demo']} of processor time" in world_model
    own, small = (cpu[f"a video by {what}"] for what in ("a model of its own", "the small model"))
    assert f"takes {own} for 100 frames of 256x256, {small} with the small model" in text
    assert f"CPU, {cpu['futures of 42 simulated clips']} of its time" in text
    others = cpu["another program's masks"]
    assert f"CPU, {others} for three videos" in text
    movi_d = float(hours(priced("h200")["movi_d"][0]))
    assert f"the paper's 50,000 steps take {movi_d:.1f} hours on one H200" in text


def priced(name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a benchmark of what trainings cost, with the encoder in the loop and, where there is one, cached."""
    rows = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["cost"]["rows"]
    return {row["name"]: [other for other in rows if other["name"] == row["name"]] for row in rows}


def hours(row: dict[str, Any]) -> str:
    """Of a whole training, with the stages before it."""
    return re.findall(r"(\S+) h ", row["note"])[-1]


def test_costs_are_those_of_their_raw_files() -> None:
    gpu, cpu = priced("h200"), priced("cpu")
    _, *rows = rows_of("What a system costs", "docs/benchmarks.md")
    assert [row[0] for row in rows] == [f"`{name}`" for name in cpu]
    assert gpu.keys() < cpu.keys()
    for name, update, cached, memory, taken, less, *clip in rows:
        own, host = gpu.get(name.strip("`"), []), cpu[name.strip("`")]
        assert padded(f"{row['seconds'] * 1e3:.1f}" for row in own) == [update, cached], name
        assert padded(hours(row) for row in own) == [taken, less], name
        assert padded(f"{row['seconds'] * 1e3:.0f}" for row in host) == clip, name
        assert memory == "".join(f"{row['memory'] / 1e6:.0f}" for row in own[:1]), name


def padded(cells: Iterable[str]) -> list[str]:
    """Two cells, of which those that were not measured are empty."""
    return [*cells, "", ""][:2]


def test_threads_are_those_of_their_raw_file() -> None:
    sections = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())
    taken = {
        (row["group"], row["name"]): row["seconds"] for name in ("threads", "readout") for row in sections[name]["rows"]
    }
    _, *rows = rows_of("Threads", "docs/benchmarks.md")
    assert len(rows) == 4
    ratios = []
    for step, *cells in rows:
        one, two = (taken[step, threads] for threads in ("1 thread", "2 threads"))
        assert cells == [f"{seconds * 1e3:.0f}" for seconds in (one, two)]
        ratios.append(two / one)
    group = "contact from 1,000 clips of 4,095 features"
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert f"{min(ratios):.0f} to {max(ratios):.0f} times slower" in text
    assert f"Ours takes {taken[group, 'ours']:.2f} s" in text
    assert f"{taken[group, 'public pipeline']:.2f} s." in text


def means(file: str, method: str, measures: list[str], videos: int) -> list[str]:
    """Of a method over the rows, one a video (and seed), of a raw file."""
    return [f"{mean:.3f}" for mean in by_seed(file, method, measures, videos).mean(0)]


def over_seeds(file: str, method: str, measures: list[str], videos: int, seeds: int) -> list[str]:
    """``means``, with the standard deviation over seeds where there are several."""
    found = by_seed(file, method, measures, videos)
    assert len(found) == seeds
    spread = [f" ± {one:.3f}" for one in found.std(0, ddof=1)] if seeds > 1 else [""] * len(measures)
    return [mean + more for mean, more in zip(means(file, method, measures, videos), spread, strict=True)]


def by_seed(file: str, method: str, measures: list[str], videos: int) -> NDArray[np.float64]:
    """Means over videos (seeds, measures) of a method in a raw file, which has a row a seed and video."""
    with (ROOT / "results" / file).open() as opened_file:
        rows = [row for row in csv.DictReader(opened_file) if row["method"] == method]
    seeds = sorted({row.get("seed", "") for row in rows})
    assert [sum(row.get("seed", "") == seed for row in rows) for seed in seeds] == [videos] * len(seeds)
    return np.array(
        [[np.mean([float(row[m]) for row in rows if row.get("seed", "") == seed]) for m in measures] for seed in seeds]
    )
