"""Tables of the notebook that stand behind the name of a raw file."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("title", "folder", "count"),
    [
        ("Signs of life of the paper's other systems", "life", 10),
        ("Self-distillation moves its teacher", "distillation", 3),
        ("What DINOv2's features say", "features", 3),
        ("The faithful recipe at length", "faithful", 3),
        ("Half whitened, with positions: what is lost is identity", "half", 3),
    ],
)
def test_tables_that_follow_the_name_of_their_raw_file_are_of_it(title: str, folder: str, count: int) -> None:
    """Columns are called as in the file."""
    page = (ROOT / "docs/notebook.md").read_text()
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
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
