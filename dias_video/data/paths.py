"""Names of files: which files of a folder are data, in what order, and names that must stay inside a folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple


def natural(path: str) -> list[list[tuple[int, str]]]:
    """Sort key of a path with slashes under which numbers in names count as numbers: ``2.png`` before ``10.png``."""
    return [
        [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(re.split("([0-9]+)", name))]
        for name in path.split("/")
    ]


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden (``.name``, also the ``._name`` of macOS) and so is no data."""
    return name.startswith(".")


def readable(name: str) -> str:
    """A file's name as text that can be written anywhere; a byte that is not UTF-8 becomes ``\\xff``."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


class Choice(NamedTuple):
    """Which files of a data set to use, by shell patterns (``*.jpg``) of a file's name or of its path in the root."""

    pattern: str = "*"  # these files
    exclude: tuple[str, ...] = ()  # but not these, nor anything in folders of these names

    @classmethod
    def of(cls, pattern: str | None, exclude: str | Sequence[str] | None) -> Choice:
        """The choice of the two options; None = not given."""
        return cls(pattern or "*", (exclude,) if isinstance(exclude, str) else tuple(exclude or ()))

    def holds(self, path: str) -> bool:
        """Whether to use a file, given its path in the root."""
        return any(fnmatchcase(name, self.pattern) for name in (path.rpartition("/")[2], path)) and not self.drops(path)

    def drops(self, path: str) -> bool:
        """Whether a file or folder, given its path in the root, is left out by its own name or by its path."""
        return any(fnmatchcase(name, one) for one in self.exclude for name in (path.rpartition("/")[2], path))


def files_in(folder: Path, extensions: Collection[str]) -> list[Path]:
    """Files directly in a folder with one of the extensions (in any case), in natural order, without hidden ones."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if ends_so(entry.name, extensions) and entry.is_file()]
    return [folder / name for name in sorted(names, key=natural)]


def ends_so(name: str, extensions: Collection[str]) -> bool:
    """Whether a file that is not hidden has one of the extensions, such as ``.png``, in any case."""
    return not hidden(name) and os.path.splitext(name)[1].lower() in extensions


def files_under(root: Path, extensions: Collection[str], choice: Choice) -> list[str]:
    """Paths inside ``root`` of the chosen files at any depth with one of the extensions, in natural order.

    Links to folders are followed, each folder once.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        within = os.path.relpath(folder, root)
        start = "" if within == "." else f"{within}/"
        folders[:] = [name for name in folders if not hidden(name) and not choice.drops(start + name)]
        found += [start + name for name in names if ends_so(name, extensions) and choice.holds(start + name)]
    return sorted(found, key=natural)


def local(name: str | Path) -> Path:
    """The path of a file or folder of this machine.

    Raises:
        ValueError: the name is an address, such as ``https://…``; a path would lose one of its slashes.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(name)):
        raise ValueError(f"{name} is an address, and only files of this machine are read; download it first")
    return Path(name)


def data_folder(root: str | Path, within: str) -> Path:
    """A folder within the root of a data set; "" = the root itself.

    Raises:
        ValueError: there is no such folder, or the root is an address.
    """
    folder = local(root) / within
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; check data.root")
    return folder


def inside(root: Path, name: str, where: str) -> Path:
    """``root / name`` for a name taken from an annotation file; backslashes separate folders, as on Windows.

    A letter with an accent can be one character or two, depending on the system; the form that exists is used.

    Raises:
        ValueError: the name is empty or would leave ``root``.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or PureWindowsPath(name).drive:
        raise ValueError(f"{where} names {name!r}, which is outside of {root}; correct the file name")
    if not name.isascii() and not (root / path).exists():
        others = [root / unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD")]
        return next((other for other in others if other.exists()), root / path)
    return root / path


def safe_names(ids: Sequence[str]) -> list[str]:
    """A relative path for each id (ids may hold slashes) that never leads out of the folder it is joined to.

    Characters that some systems don't allow become ``_``, as do parts such as ``..``. Two paths that would be equal
    (also without regard to upper and lower case), or of which one would be a folder of the other, are kept apart: the
    first folder of the later one gets a number.
    """
    names: list[str] = []
    taken: set[str] = set()  # names and their parents
    final: set[str] = set()
    for one in ids:
        parts = [_safe(part) for part in one.split("/") if part not in ("", ".")] or ["_"]
        name, number = "/".join(parts), 1
        while _blocked(name.casefold(), taken, final):
            number += 1
            name = "/".join([f"{parts[0]}-{number}", *parts[1:]])
        names.append(name)
        final.add(name.casefold())
        taken |= {name.casefold(), *_parents(name.casefold())}
    return names


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _blocked(name: str, taken: set[str], final: set[str]) -> bool:
    return name in taken or any(parent in final for parent in _parents(name))


def _safe(part: str) -> str:
    """One part of a path as a name that every system takes."""
    clean = re.sub(r'[\x00-\x1f\x7f<>:"\\|?*]', "_", part).rstrip(". ") or "_"
    clean = "_" + clean[1:] if clean.startswith(".") else clean
    if PureWindowsPath(clean).is_reserved():
        clean = f"_{clean}"
    while len(clean.encode()) > 200:  # file systems take 255 bytes
        clean = clean[:-1]
    return clean
