"""Which copy of this project made a run, and with which libraries."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def git_commit() -> str | None:
    """Return this copy's git commit, marked if files were changed; None outside a checkout."""
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here.parent), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        # an environment in somebody else's checkout is not that checkout
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        return None


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a sweep's results depend on."""
    names = (
        "ray",
        "torch",
        "lightning",
        "segmentation-models-pytorch",
        "opencv-python-headless",
        "numpy",
    )
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}
