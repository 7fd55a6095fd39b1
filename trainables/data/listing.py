"""The files of a data set: list them, check their names, pair images with masks."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainables.data.splits import natural_key, some

SUFFIXES = (".tif", ".tiff", ".png")


def list_files(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Map stems to image files; report wrong suffixes, wrong names, and stems that appear twice."""
    if not folder.is_dir():
        problems.append(f"{folder.name}/: {_no_folder(folder)}")
        return {}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
            continue
        name = f"{folder.name}/{shown(path.name)}"
        if wrong := wrong_name(path.name):
            problems.append(f"{name}: {wrong}; rename the file")
        elif path.suffix.lower() not in SUFFIXES:
            problems.append(f"{name}: not a TIFF or PNG file; convert it or remove it")
        elif not path.is_file():
            problems.append(f"{name}: not a file, or a link to a missing file")
        elif path.stem in found:
            problems.append(f"{name}: same stem as {found[path.stem].name}; keep one of them")
        else:
            found[path.stem] = path
    if not found:
        problems.append(f"{folder.name}/: contains no TIFF or PNG file")
    return found


def _no_folder(folder: Path) -> str:
    if os.path.lexists(folder):
        return f"not a folder, or a link to a missing folder, in {folder.parent}"
    return f"no such folder in {folder.parent}"


def wrong_name(name: str) -> str | None:
    r"""Say why a file's name cannot be written into a table; None if it can.

    Examples
    --------
    >>> wrong_name("t000.tif"), wrong_name("a\tb.tif")
    (None, 'its name contains a control character (a line break or tab)')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8 (\\x.. stands for an invalid byte)"
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
        return "its name contains a control character (a line break or tab)"
    return None


def shown(name: str) -> str:
    r"""Return a name as one line of text; invalid UTF-8 and control characters are escaped.

    Examples
    --------
    >>> shown("zäh"), shown("n\udce4")
    ('zäh', 'n\\xe4')
    """
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(s if ord(s) >= 32 and ord(s) != 127 else repr(s)[1:-1] for s in text)


def case_note(stems: Iterable[str]) -> list[str]:
    """Say which names differ only in upper and lower case."""
    alike: dict[str, list[str]] = {}
    for stem in stems:
        alike.setdefault(stem.casefold(), []).append(stem)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    return [
        f"names that differ only in upper and lower case are the same file on macOS and Windows: "
        f"{some(pairs)}"
    ]


def orphans(images: Mapping[str, Path], masks: Mapping[str, Path]) -> list[str]:
    """Report images without a mask and masks without an image, with a suggestion."""
    problems = []
    for mine, what, others, other in (
        (images, "mask", masks, "masks"), (masks, "image", images, "images")
    ):
        free = [stem for stem in others if stem not in mine]
        for stem in sorted(set(mine) - set(others), key=natural_key):
            longer = [s for s in free if s.startswith(stem) or stem.startswith(s)]
            close = longer or difflib.get_close_matches(stem, free, n=1)
            hint = f"; did you mean {other}/{others[close[0]].name}?" if close else ""
            where = f"{mine[stem].parent.name}/{mine[stem].name}"
            problems.append(f"{where}: no {what} of this name{hint}")
    return problems
