"""Tables of the docs that stand behind the name of a raw file."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from slotformer.statistics import interval

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("title", "folder", "count", "page"),
    [
        ("Signs of life of the paper's other systems", "life", 10, "notebook"),
        ("Self-distillation moves its teacher", "distillation", 3, "notebook"),
        ("What DINOv2's features say", "features", 3, "notebook"),
        ("The faithful recipe at length", "faithful", 3, "notebook"),
        ("The small model's recipe on DINOv2's features", "whitened", 1, "results"),
        ("Whitened features of DINOv2: what was tried", "whitened", 3, "notebook"),
        ("Half whitened, with positions: what is lost is identity", "half", 3, "notebook"),
        ("Where a decoder's masks are read", "decoder_masks", 1, "notebook"),
        ("A whitened teacher for the small encoder", "tiny", 1, "notebook"),
    ],
)
def test_tables_that_follow_the_name_of_their_raw_file_are_of_it(
    title: str, folder: str, count: int, page: str
) -> None:
    """Columns are called as in the file."""
    section = (ROOT / f"docs/{page}.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    tables = re.findall(rf"Raw: `(results/{folder}/\w+\.csv)`\.\n\n((?:\|.*\n)+)", section)
    assert len(tables) == section.count("Raw: ") == count
    for name, table in tables:
        with (ROOT / name).open() as file:
            raw = list(csv.DictReader(file))
        head, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines())
        assert rows
        for row in rows:
            shown = dict(zip(head, row, strict=True))
            texts = {key: cell for key, cell in shown.items() if not re.fullmatch(r"-?\d+\.\d+", cell)}
            found = [one for one in raw if all(one[key] == cell for key, cell in texts.items())]
            assert len(found) == 1, (name, texts)
            for key in shown.keys() - texts:
                assert shown[key] == f"{float(found[0][key]):.{len(shown[key].split('.')[1])}f}", (name, row, key)


def test_prose_beside_the_tables_is_of_the_raw_files() -> None:
    page = " ".join((ROOT / "docs/notebook.md").read_text().split())

    def raw(name: str, **chosen: str) -> list[dict[str, str]]:
        with (ROOT / f"results/{name}.csv").open() as file:
            return [one for one in csv.DictReader(file) if all(one[key] == text for key, text in chosen.items())]

    runs: dict[tuple[str, str], dict[int, float]] = {}
    for one in (one for one in raw("faithful/curves") if not one["clips"].endswith("CPU")):
        runs.setdefault((one["clips"], one["row"]), {})[int(one["update"])] = float(one["steadiness"])
    ends = {run: max(steady) for run, steady in runs.items()}
    toss_d = runs["toss-D, boxes", "full"]
    others = [end for run, end in ends.items() if run[0] != "toss-D, boxes"]
    assert f"up to update {max(toss_d):,} on toss-D, {min(others):,} to {max(others):,} elsewhere" in page
    assert f"from update 2,500 on ({toss_d[2500]:.2f} to {toss_d[9750]:.2f} at 9,750) and with boxes on toss-A" in page
    boxes = (runs["toss-A, boxes", row] for row in ("full", "plain"))
    full, plain = (f"{steady[5000]:.2f} to {steady[9750]:.2f}" for steady in boxes)
    assert f"on toss-A from 5,000 on ({full}, `plain` {plain})" in page

    cpu = {"machine": "CPU", "mask_source": "aggregation"}
    cells, edges = (
        {int(r["update"]): f"{float(r['video-fg/fg_ari']):.3f}" for r in raw("faithful/scores", edges=e, **cpu)}
        for e in ("no", "yes")
    )
    every, some = ([scores[update] for update in sorted(scores)] for scores in (cells, edges))
    assert (sorted(cells), sorted(edges)) == ([*range(5000, 20001, 2500)], [*range(5000, 20001, 5000)])
    assert f"FG-ARI of the aggregation {', '.join(every[:-1])} and {every[-1]} after 5,000, 7,500, … and 20,000" in page
    assert f"with edges {', '.join(some[:-1])} and {some[-1]} after 5,000, 10,000, 15,000 and 20,000" in page

    (best,) = (one for one in raw("half/places", run="pa4") if one["update"] == "1250")
    assert f"the aligned one too ({float(best['steadiness']):.2f} at update 1,250)" in page
    for one in raw("half/scores", set="toss-D, boxes, 5000", row="full"):
        assert f"`full` on toss-D has {float(one['video-fg/fg_ari']):.2f}." in page


def test_what_the_techniques_are_worth_on_whitened_features_is_of_the_videos() -> None:
    with (ROOT / "results/whitened/videos.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["edges"] == "yes"]
    text = " ".join((ROOT / "docs/results.md").read_text().split())

    def more(clips: str, updates: str) -> str:
        scores: dict[str, dict[str, list[float]]] = {"full": {}, "plain": {}}
        for row in rows:
            if (row["clips"], row["told"], row["updates"]) == (clips, "boxes", updates) and row["row"] in scores:
                scores[row["row"]][row["video_id"]] = [float(row[name]) for name in ("video-fg/fg_ari", "video-fg/mbo")]
        assert len(scores["full"]) == len(scores["plain"]) == 64
        pairs = (np.subtract(scores["full"][video], other) for video, other in scores["plain"].items())
        fg_ari, mbo = (f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in interval(np.array([*pairs])).T)
        return f"{clips}, {int(updates):,} updates, {fg_ari} FG-ARI and {mbo} mBO"

    said = f"one seed, paired by video: {more('toss-A', '3000')}; {more('toss-D', '2000')}."
    assert said in text

    def first(clips: str, told: str, updates: str, carry: str) -> str:
        named = {"clips": clips, "told": told, "row": "full", "updates": updates, "carry": carry}
        found = {row["video_id"]: float(row["video-fg/fg_ari"]) for row in rows if named.items() <= row.items()}
        assert len(found) == 64
        return f"{np.mean([found[video] for video in sorted(found)[:24]]):.3f}"

    def own(name: str) -> str:
        with (ROOT / f"results/own/{name}.csv").open() as file:
            found = [float(row["video-fg/fg_ari"]) for row in csv.DictReader(file) if row["method"] == "model"]
        return f"{np.mean(found):.3f}"  # three seeds of as many videos

    boxes = " and ".join(first(clips, "boxes", "3000", "persist") for clips in ("toss-A", "toss-D"))
    assert f"has {own('toss_a_boxes')} and {own('toss_d_boxes')}, these slots {boxes}; without" in text
    assert f"it has {own('toss_a')}, these {first('toss-A', 'nothing', '4000', 'settle')}." in text


def test_what_is_said_beside_the_tables_of_whitened_features_is_of_their_files() -> None:
    def score(name: str, measure: str, **chosen: str) -> float:
        with (ROOT / f"results/whitened/{name}.csv").open() as file:
            (one,) = (row for row in csv.DictReader(file) if chosen.items() <= row.items())
        return float(one[measure])

    fg_ari, mbo, ari = "video-fg/fg_ari", "video-fg/mbo", "ocb/ari"
    results, notebook = (" ".join((ROOT / f"docs/{page}.md").read_text().split()) for page in ("results", "notebook"))
    free = {"clips": "toss-A", "told": "nothing", "edges": "yes"}
    other = score("scores", mbo, row="kmeans", **free)
    ours = [score("scores", mbo, mask_source="aggregation", carry=carry, **free) for carry in ("settle", "persist")]
    said = f"k-means has mBO {other:.3f} (toss-A, 16 clusters, edges), these slots {ours[0]:.3f}, but {ours[1]:.3f}"
    assert f"{said} without `settle`" in results

    def gain(clips: str, measure: str) -> str:
        named = {"clips": clips, "told": "boxes", "edges": "yes", "mask_source": "aggregation"}
        ends = [
            score("scores", measure, row=row, updates=n, **named) for row, n in (("untrained", "0"), ("full", "3000"))
        ]
        return f"{ends[1] - ends[0]:.2f}"

    toss_a, toss_d = ([gain(clips, measure) for measure in (fg_ari, mbo)] for clips in ("toss-A", "toss-D"))
    said = f"slots gain {toss_a[0]} FG-ARI and {toss_a[1]} mBO over untrained ones on toss-A"
    assert f"{said}, {toss_d[0]} and {toss_d[1]} on toss-D" in notebook

    as_it_is, *others = (
        score("tried", ari, clips="toss-D", changed=changed)
        for changed in ("as it is", "place=0.4", "first_iterations=6")
    )
    place, first = (f"{as_it_is - other:.2f}" for other in others)
    assert f"costs up to {place} ocb ARI, and more first iterations, which cost up to {first}." in notebook

    def package(told: str, videos: str, **chosen: str) -> str:
        return f"{score('package', fg_ari, told=told, videos=videos, **chosen):.3f}"

    unmerged = package("nothing", "24", carry="persist")
    rows = (("nothing", "0.2"), ("boxes", "0.02"), ("boxes", "0.2"))
    merged = [package(told, "24", carry="settle", **{"merged at": distance}) for told, distance in rows]
    said = f"24 val clips: {unmerged} as it is, {merged[0]} at 0.2) and loses with boxes"
    assert f"{said} ({merged[1]} at 0.02, {merged[2]} at 0.2)" in notebook
    before, after = ([package(told, "48", updates=n) for told in ("boxes", "nothing")] for n in ("0", "1500"))
    said = f"it has {after[0]} with boxes after 1,500 updates and {after[1]} without (48 val clips, edges)"
    assert f"{said}, before {before[0]} and {before[1]}" in notebook


def test_what_a_whitened_teacher_is_worth_is_of_the_videos() -> None:
    scores: dict[str, dict[str, list[float]]] = {"plain": {}, "whitened": {}}
    with (ROOT / "results/tiny/whitened_teacher_videos.csv").open() as file:
        for row in csv.DictReader(file):
            scores[row["teacher"]][row["video_id"]] = [float(row[name]) for name in ("video-fg/fg_ari", "video-fg/mbo")]
    assert len(scores["plain"]) == len(scores["whitened"]) == 48
    pairs = np.array([np.subtract(scores["whitened"][video], other) for video, other in scores["plain"].items()])
    fg_ari, mbo = (f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in interval(pairs).T)
    page = " ".join((ROOT / "docs/notebook.md").read_text().split())
    assert f"whitened less plain, each at its best: {fg_ari} FG-ARI, {mbo} mBO, one training each" in page


def test_what_is_said_beside_the_table_of_the_small_encoders_is_of_it() -> None:
    with (ROOT / "results/tiny/whitened_teacher.csv").open() as file:
        raw = [row for row in csv.DictReader(file) if row["videos"] == "48"]
    page = " ".join((ROOT / "docs/notebook.md").read_text().split())
    fg_ari, mbo, ari = "video-fg/fg_ari", "video-fg/mbo", "ocb/ari"

    def found(measure: str, **chosen: str) -> list[float]:
        return [float(row[measure]) for row in raw if chosen.items() <= row.items()]

    def best(teacher: str) -> list[str]:
        rows = (row for row in raw if (row["teacher"], row["training"]) == (teacher, "untrained"))
        row = max(rows, key=lambda row: float(row[fg_ari]))
        return [f"{float(row[name]):.3f}" for name in (fg_ari, mbo)]

    assert "have {} FG-ARI and {} mBO".format(*best("whitened")) in page
    assert (
        "have {} and {} at best, with the shipped encoder {} and {}.".format(*best("plain"), *best("shipped")) in page
    )

    trained = [row for row in raw if row["training"] not in ("untrained", "as shipped") and "of" not in row["training"]]
    spoiled = "no distillation, 4e-4, 2,000"
    boxes = [float(row[fg_ari]) for row in trained if row["told"] == "boxes" and row["training"] != spoiled]
    (shipped,) = found(fg_ari, training="as shipped", told="boxes")
    said = f"(FG-ARI {min(boxes):.3f} to {max(boxes):.3f} instead of {shipped:.3f}) if they learn little"
    assert len(boxes) == 6
    assert said in page
    ((without,), (with_it,)) = (found(fg_ari, training=end, told="boxes") for end in (spoiled, "4e-4, 2,000 of 3,000"))
    assert f"leave {without:.3f} without self-distillation and {with_it:.3f} with it" in page

    rehearsed = [row for row in trained if row["told"] == "rehearsed"]
    ends = [float(row[fg_ari]) for row in rehearsed]
    (shipped,) = found(fg_ari, training="as shipped", told="rehearsed")
    assert f"(FG-ARI {min(ends):.3f} to {max(ends):.3f} instead of {shipped:.3f};" in page
    little = [float(row[ari]) for row in rehearsed if row["training"] != spoiled]
    assert f"{min(little):.3f} to {max(little):.3f} where they learn little" in page
    assert max(found(mbo, told="rehearsed")) == found(mbo, training="as shipped", told="rehearsed")[0]
