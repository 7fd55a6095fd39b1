"""Identify, check, download and load the weights that encoders start from.

`sources` says which weights there are. A cache filled by `fetch` is a folder of weights: copied to
a machine without network, it can be used as ``encoder_weights=FOLDER``, with its means, standard
deviations and licences.

`WeightsInfo.identity` names the exact bytes of the weights and is part of a trial's name.

Importing this module imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.encoders.loading import WeightsError, load_into
from trainables.encoders.names import scaling_of
from trainables.encoders.sources import (
    WAYS_OUT,
    WeightsInfo,
    is_path,
    read_record,
    record_path,
    resolve,
)
from trainables.records.files import fetched, remove, send, sync_folder, write_json
from trainables.records.manifest import sha256_of

__all__ = [
    "Availability",
    "WeightsError",
    "WeightsInfo",
    "available",
    "check_bytes",
    "fetch",
    "identify",
    "is_path",
    "load_into",
    "pinned",
    "resolve",
    "scaling_of",
]


@dataclass(frozen=True)
class Availability:
    """Whether weights are available; true in a condition if they are."""

    ok: bool
    message: str
    """One line: where they are, or why they are not available and what to do."""

    def __bool__(self) -> bool:
        return self.ok


def cached(info: WeightsInfo, cache: Path) -> Path | None:
    """Return the file of `info` in a cache if it is there, complete and of the right revision."""
    path = cache / f"{info.name}{Path(info.filename).suffix}"
    fetched(record_path(path))
    record = read_record(path)
    # what is not pinned was pinned by whoever fetched it first
    same = info.revision is None or info.revision in (record.get("wanted"), record.get("revision"))
    same = same and info.sha256 in (None, record.get("sha256"))
    return path if record and same else None


def identify(info: WeightsInfo, cache: Path) -> WeightsInfo:
    """Find the revision and SHA-256, so that `WeightsInfo.identity` names the exact bytes.

    A local file is read, and the cache records its own; otherwise the hub is asked, without
    downloading the weights. The result is the same before and after `fetch`.

    Parameters
    ----------
    info : WeightsInfo
        From `resolve`.
    cache : Path
        Where `fetch` puts them.

    Raises
    ------
    WeightsError
        When they are not available.
    """
    if info.kind == "file":
        if not Path(info.source).is_file():
            raise WeightsError(f"{info.source}: no such file")
        return replace(info, sha256=sha256_of(Path(info.source)))
    if path := cached(info, cache):
        record = read_record(path)
        return pinned(info, str(record.get("identity") or "")) or replace(
            info, revision=record.get("revision"), sha256=record.get("sha256")
        )
    try:
        commit, digest = _look(info, timeout_s=30.0)
    except Exception as error:  # as in `available`
        raise WeightsError(_unreachable(info, error)) from error
    if info.kind == "url":  # an address tells no more than the digest in its name
        return info
    return replace(info, revision=commit or info.revision, sha256=digest)


def pinned(info: WeightsInfo, identity: str) -> WeightsInfo | None:
    """Return weights with the revision and SHA-256 of an identity; None if it is not theirs.

    Parameters
    ----------
    info : WeightsInfo
        From `resolve`: of the hub, or an address.
    identity : str
        A `WeightsInfo.identity`, from a plan or a cache.
    """
    named, _, digest = identity.rpartition("#")
    source, _, revision = named.rpartition("@")
    if source != info.source or info.revision not in (None, revision):
        return None
    return replace(info, revision=revision or None, sha256=digest or None)


def check_bytes(info: WeightsInfo, path: Path, identity: str) -> WeightsInfo:
    """Check that a file is the one that a plan named; return the weights with their SHA-256.

    Parameters
    ----------
    info : WeightsInfo
    path : Path
        The file that will be loaded.
    identity : str
        What the plan recorded; empty: nothing to compare with.

    Raises
    ------
    WeightsError
        When the file has changed since the sweep was planned.
    """
    digest = sha256_of(path)
    planned = identity.rpartition("#")[2]
    if not digest.startswith(planned):
        raise WeightsError(
            f"encoder weights {path} have changed since the sweep was planned: their SHA-256 was "
            f"{planned[:12]}... and is now {digest[:12]}...; start a new run with --out"
        )
    return replace(info, sha256=digest)


def available(
    info: WeightsInfo | None, cache: Path | None = None, *, timeout_s: float = 5.0
) -> Availability:
    """Check, without downloading them, that weights are available.

    Parameters
    ----------
    info : WeightsInfo or None
        From `resolve`.
    cache : Path, optional
        Where `fetch` would put them; weights that are there need no network.
    timeout_s : float
        How long to wait for the network, in seconds.

    Returns
    -------
    Availability
        With one line to show.
    """
    if info is None:
        return Availability(True, "encoder weights: none (random)")
    if info.kind == "file":
        there = Path(info.source).is_file()
        return Availability(there, info.source if there else f"{info.source}: no such file")
    if cache is not None and (path := cached(info, cache)):
        return Availability(True, f"{info.name}: in the cache, {path}")
    try:
        _look(info, timeout_s)
    except Exception as error:  # whatever the network, a proxy or the hub's client comes up with
        return Availability(False, _unreachable(info, error))
    return Availability(True, f"{info.name}: from {info.source}")


def fetch(info: WeightsInfo, cache: Path) -> Path:
    """Download weights once and check them; later calls return the file in the cache.

    If many processes on one machine or shared folder call this at once, one downloads and the
    others wait for it.

    Parameters
    ----------
    info : WeightsInfo
        From `resolve`.
    cache : Path
        Folder, made when absent; if it is in an object store, this machine's copy of it. Beside the
        weights lies a JSON file with source, commit, SHA-256, mean and standard deviation.

    Returns
    -------
    Path
        The weights, for ``build_model(..., encoder_weights=path)``.

    Raises
    ------
    WeightsError
        When they cannot be downloaded, or are not what was expected.
    """
    if info.kind == "file":
        if not Path(info.source).is_file():
            raise WeightsError(f"{info.source}: no such file")
        return Path(info.source)
    if path := cached(info, cache):
        return fetched(path)
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{info.name}{Path(info.filename).suffix}"
    with FileLock(cache / f".{target.name}.lock"):
        if path := cached(info, cache):  # another process was faster
            return fetched(path)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=cache) as folder:
            try:
                file, facts = _download(info, Path(folder))
            except WeightsError:
                raise
            except Exception as error:  # as in `available`
                raise WeightsError(_unreachable(info, error)) from error
            record = {**info.record(), **facts, "wanted": info.revision}
            # Without its record the file does not count, so one that replaces it comes first.
            remove(record_path(target))
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(file, target)
            sync_folder(cache)
            send(target)
            write_json(record_path(target), record)
    return target


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _unreachable(info: WeightsInfo, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[0]}".rstrip(": ")
    return f"{info.name} cannot be fetched from {info.source} ({reason}); {WAYS_OUT}"


def _look(info: WeightsInfo, timeout_s: float) -> tuple[str | None, str | None]:
    """Ask for a file's commit and SHA-256, where the source tells them."""
    if info.kind == "url":
        request = urllib.request.Request(info.source, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout_s):
            return None, info.revision
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(info.source, info.filename, revision=info.revision, endpoint=_endpoint())
    found = get_hf_file_metadata(url, timeout=timeout_s, endpoint=_endpoint())
    digest = found.etag if found.etag and re.fullmatch("[0-9a-f]{64}", found.etag) else None
    return found.commit_hash, digest


def _download(info: WeightsInfo, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Download into `folder`, check, and return the file and what there is to remember."""
    commit, expected = _look(info, timeout_s=30.0)
    if info.kind == "url":
        from torch.hub import download_url_to_file

        file = folder / info.filename
        download_url_to_file(info.source, str(file), progress=False)
    else:
        from huggingface_hub import hf_hub_download

        def get(filename: str) -> Path:
            return Path(
                hf_hub_download(
                    info.source,
                    filename,
                    revision=commit or info.revision,
                    local_dir=folder,
                    endpoint=_endpoint(),
                )
            )

        file = get(info.filename)
        if info.source.startswith("smp-hub/"):
            _check_scaling(info, json.loads(get("config.json").read_text(encoding="utf-8")))
    digest = sha256_of(file)
    expected = info.sha256 or expected
    if expected and not digest.startswith(expected):
        raise WeightsError(
            f"{info.name} from {info.source} is damaged: its SHA-256 is {digest}, "
            f"not {expected}; try again"
        )
    revision = commit or info.revision or digest
    # the identity is what was known before the download: a plan made then says the same
    known = info if info.kind == "url" else replace(info, revision=revision, sha256=expected)
    facts = {"sha256": digest, "bytes": file.stat().st_size, "identity": known.identity}
    return file, {**facts, "revision": revision}


def _check_scaling(info: WeightsInfo, config: dict[str, Any]) -> None:
    """Check that the published mean and standard deviation are the ones known here."""
    for name, known in (("mean", info.mean), ("std", info.std)):
        published = config.get(name)
        if published is not None and any(
            abs(a - b) > 1e-3 for a, b in zip(published, known, strict=True)
        ):
            raise WeightsError(
                f"{info.name}: {info.source} gives {name} {tuple(published)}, "
                f"but this version expects {known}; {WAYS_OUT}"
            )
