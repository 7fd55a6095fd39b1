"""Files of a folder that are not segmented, and why: none is skipped silently."""

from __future__ import annotations

from pathlib import Path

from trainables.data.dataset import SUFFIXES

_SILENT = {".ds_store", "thumbs.db", "desktop.ini"}
"""Files that file managers leave behind."""
_PHOTOS = {".jpg", ".jpeg", ".jp2", ".webp", ".heic"}
_PICTURES = {".bmp", ".gif", ".pgm", ".tga"}
_MICROSCOPES = {
    ".czi",
    ".dv",
    ".ims",
    ".lif",
    ".lsm",
    ".mrc",
    ".nd",
    ".nd2",
    ".oib",
    ".oif",
    ".oir",
    ".stk",
    ".svs",
    ".vsi",
    ".zvi",
}
_MOST_NAMES = 5


def why_not(path: Path) -> str:
    """Return why a file is not an image that can be segmented, and what to do."""
    suffix = path.suffix.lower()
    if suffix in _PHOTOS:
        return "lossy compression changes intensities: export the original as TIFF or PNG"
    if suffix in _PICTURES:
        return "save it as TIFF or PNG"
    if suffix in _MICROSCOPES:
        return "a microscope's own format: export it as TIFF, with one channel"
    return "only .tif, .tiff and .png are read"


class Skipped:
    """Files that were skipped, by reason.

    Examples
    --------
    >>> skipped = Skipped()
    >>> skipped.add(Path("field/notes.txt"), "only .tif, .tiff and .png are read")
    >>> skipped.by_reason()
    '1 other: notes.txt (only .tif, .tiff and .png are read)'
    """

    def __init__(self) -> None:
        self.files: dict[Path, str] = {}

    def add(self, path: Path, reason: str) -> None:
        """Add a skipped file."""
        self.files[path] = reason

    def add_other(self, path: Path) -> None:
        """Add a folder's entry that is not an image, unless a file manager created it."""
        name = path.name.lower()
        if name in _SILENT or (name.startswith(".") and path.suffix.lower() not in SUFFIXES):
            return
        if path.is_dir():
            self.add(path, "a folder: to segment its images, name it on the command line")
        elif path.suffix.lower() not in SUFFIXES:
            self.add(path, why_not(path))
        elif name.startswith("."):
            self.add(path, "hidden, because its name begins with a dot")
        else:
            self.add(path, "not a file, or a link to a missing file")

    def update(self, other: Skipped) -> None:
        """Add the files of another `Skipped`."""
        self.files.update(other.files)

    def by_reason(self) -> str:
        """Return one line that names the files; empty if there are none."""
        reasons: dict[str, list[str]] = {}
        for path, reason in self.files.items():
            reasons.setdefault(reason, []).append(path.name + ("/" if path.is_dir() else ""))
        listed = []
        for reason, names in reasons.items():
            more = len(names) - _MOST_NAMES
            shown = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
            listed.append(f"{shown} ({reason})")
        count = len(self.files)
        return f"{count} other{'s' * (count != 1)}: {'; '.join(listed)}" if count else ""

    def note(self) -> str:
        """Return the line for the screen; empty if there are none."""
        held = self.by_reason()
        count = len(self.files)
        rest = held.partition(": ")[2]
        return f"skipped {count} file{'s' * (count != 1)}: {rest}" if held else ""
