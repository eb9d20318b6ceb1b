"""Reads text files, with or without a byte order mark, and tables with commas."""

from __future__ import annotations

import csv
import io
from pathlib import Path


def read_text(file: Path) -> str:
    """Content of a file in UTF-8.

    Raises:
        ValueError: the file is missing, or is in another encoding.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing; check its path, or download it") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not in UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_table(file: Path) -> list[tuple[int, list[str]]]:
    """Rows of a table with commas, each with the number of its line; empty lines are left out.

    Raises:
        ValueError: the file is missing, is in another encoding, or is no such table.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""))
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}; correct the table") from error
