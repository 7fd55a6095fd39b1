"""``checkpoint.json``: what a checkpoint says of itself. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainables.errors import CheckpointError

FORMAT = 1
MANIFEST = "checkpoint.json"

_LIBRARIES = ("segsweep", "torch", "lightning", "segmentation-models-pytorch", "timm", "numpy")


def library_versions(*more: str) -> dict[str, str]:
    """Return the versions of the libraries that determine a trial's result, and of others."""
    versions = {}
    for name in (*_LIBRARIES, *more):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    return versions


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``checkpoint.json``.

    Raises
    ------
    CheckpointError
        When there is none, or it is not of a format that this version reads.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {manifest['format']}, this version reads {FORMAT}; "
                f"it was written by segsweep {manifest.get('versions', {}).get('segsweep')}"
            )
        manifest["weights"]["sha256"], manifest["weights"]["file"], manifest["config"]
        float(manifest["input"]["mean"]), float(manifest["input"]["std"])
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: it has no {error}") from error
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error
    return manifest
