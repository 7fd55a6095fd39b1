"""``checkpoint.json``, the description of a checkpoint. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from trainables.data.normalization import Intensities
from trainables.errors import CheckpointError
from trainables.records.files import exists, fetched
from trainables.records.objects import address_of

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


def copy_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the beginning of the SHA-256 of each Python file of some packages.

    Each package is searched where this process would import it, as Ray puts each uploaded package
    into its own folder.
    """
    files = {}
    for name in packages:
        spec = find_spec(name)
        for root in map(Path, (spec and spec.submodule_search_locations) or ()):
            for path in sorted(root.rglob("*.py")):
                files[f"{name}/{path.relative_to(root).as_posix()}"] = sha256_of(path)[:12]
    return files


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def input_record(mean: float, std: float, intensities: Intensities | None) -> dict[str, Any]:
    """Return what a manifest records about the network's input.

    Intensities are among it only if all images are scaled equally.
    """
    record: dict[str, Any] = {"mean": mean, "std": std}
    return record if intensities is None else {**record, **intensities._asdict()}


def read_intensities(
    manifest: dict[str, Any], config: TrialConfig, path: Path
) -> Intensities | None:
    """Return the raw intensities that become 0 and 1 in all images; None if each has its own.

    Raises
    ------
    CheckpointError
        When the configuration needs them and they are missing.
    """
    if config.normalization.mode == "image":
        return None
    try:
        entry = manifest["input"]
        found = Intensities(float(entry["low"]), float(entry["high"]), int(entry["bits"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it has no intensities ({error!r})") from error
    if not found.low < found.high:
        raise CheckpointError(
            f"{path} is damaged: its intensities go from {found.low:g} to {found.high:g}"
        )
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``checkpoint.json``.

    Raises
    ------
    CheckpointError
        When it is missing, or has a format that this version does not read.
    """
    path = fetched(folder / MANIFEST)
    if not path.is_file():
        raise CheckpointError(f"{address_of(folder)} is not a checkpoint: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {manifest['format']}, but this version reads {FORMAT}; "
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


def missing_file(folder: Path) -> Path | None:
    """Return the missing file of a checkpoint; None if manifest and weights are there.

    A damaged manifest counts as being there: whoever reads it reports the damage.
    """
    if not fetched(folder / MANIFEST).is_file():
        return folder / MANIFEST
    try:
        weights = folder / str(read_manifest(folder)["weights"]["file"])
    except CheckpointError:
        return None
    return None if exists(weights) else weights


def what_is_wrong(folder: Path) -> str:
    """Return what is missing or damaged in a checkpoint, after reading all of it; '' if nothing."""
    if (lost := missing_file(folder)) is not None:
        return f"{lost.name} is missing"
    try:
        weights = read_manifest(folder)["weights"]
    except CheckpointError:
        return f"{MANIFEST} is damaged"
    path = fetched(folder / str(weights["file"]))
    if sha256_of(path) != weights["sha256"]:
        return f"{path.name} is damaged, or not of this {MANIFEST}"
    return ""
