"""Weights that encoders start from: which exist, where they come from, fetching and loading.

Three values are understood everywhere: ``none`` (random), ``pretrained`` (the best that
segmentation-models-pytorch or timm publish for the encoder) and the path of a file or folder.
A cache filled by `fetch` is such a folder: copied to a machine without network it is used as
``encoder_weights=FOLDER``, means and standard deviations included.

Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from trainables.encoder_names import (
    BEST_FIRST,
    IMAGENET,
    RGB,
    TIMM_NAMES,
    check_encoder,
    scaling_of,
)
from trainables.files import sync_folder, write_json
from trainables.weight_loading import SUFFIXES, WeightsError, load_into

__all__ = [
    "Availability",
    "WeightsError",
    "WeightsInfo",
    "available",
    "fetch",
    "load_into",
    "resolve",
    "scaling_of",
]

WAYS_OUT = "use encoder_weights=none, or a local folder: encoder_weights=FOLDER"


@dataclass(frozen=True)
class WeightsInfo:
    """Where an encoder's weights come from and which input they were trained on."""

    name: str
    """``<encoder>.<variant>``; also names the file in the cache."""
    kind: Literal["hub", "url", "file"]
    """A repository of the Hugging Face hub, an address, or a local file."""
    source: str
    """Repository, address or absolute path."""
    filename: str
    """Name of the file at the source."""
    revision: str | None
    """Commit of the repository, or SHA-256 (or its beginning) of the file; None: not pinned."""
    mean: RGB
    """Mean of the red, green and blue channel, on `input_range`."""
    std: RGB
    """Standard deviation of the red, green and blue channel."""
    input_space: str = "RGB"
    """Order of the channels."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest value of an image before scaling."""

    @property
    def grey_mean(self) -> float:
        """Mean for grey images: the average over the channels."""
        return sum(self.mean) / len(self.mean)

    @property
    def grey_std(self) -> float:
        """Standard deviation for grey images: the average over the channels."""
        return sum(self.std) / len(self.std)


@dataclass(frozen=True)
class Availability:
    """Whether weights can be had; true in a condition when they can."""

    ok: bool
    message: str
    """One line: where they are, or why they cannot be had and what to do."""

    def __bool__(self) -> bool:
        return self.ok


def resolve(encoder: str, encoder_weights: str | Path | None) -> WeightsInfo | None:
    """Find out which weights are meant, without network.

    Parameters
    ----------
    encoder : str
        As `trainables.architectures.build_model` takes it.
    encoder_weights : str or path, optional
        ``none``, ``pretrained``, a file (``.safetensors``, ``.pth``, ``.pt``), or a folder with
        a file named after the encoder: ``resnet152.pth``, or ``resnet152.imagenet.safetensors``
        as `fetch` names it.

    Returns
    -------
    WeightsInfo or None
        None for ``none``.

    Raises
    ------
    WeightsError
        When there are no such weights.
    ValueError
        When the encoder is not known.
    """
    check_encoder(encoder)
    choice = "none" if encoder_weights is None else str(encoder_weights)
    if choice.lower() == "none":
        return None
    if choice.lower() != "pretrained":
        return _local(encoder, Path(choice).expanduser())
    name = TIMM_NAMES.get(encoder, encoder)
    return _timm(encoder, name) if name.startswith("tu-") else _native(encoder)


def _native(encoder: str) -> WeightsInfo:
    from segmentation_models_pytorch.encoders import encoders as registry

    settings = registry[encoder]["pretrained_settings"]
    variant = min(
        settings,
        key=lambda name: BEST_FIRST.index(name) if name in BEST_FIRST else len(BEST_FIRST),
    )
    name = f"{encoder}.{variant}"
    mean, std = scaling_of(name)
    repository, revision = settings[variant]["repo_id"], settings[variant]["revision"]
    return WeightsInfo(name, "hub", repository, "model.safetensors", revision, mean, std)


def _timm(encoder: str, name: str) -> WeightsInfo:
    import timm

    model = name.removeprefix("tu-")
    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError as error:
        raise WeightsError(f"{encoder}: {error}") from error
    if cfg is None or cfg.custom_load or not (cfg.hf_hub_id or cfg.url):
        raise WeightsError(f"timm publishes no weights for {encoder!r} that fit here; {WAYS_OUT}")
    # Named after the encoder as asked for, so that a cache can serve as a local folder.
    full = f"{encoder}.{cfg.tag}" if cfg.tag and not encoder.endswith(f".{cfg.tag}") else encoder
    mean, std = _rgb(cfg.mean), _rgb(cfg.std)
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        filename = cfg.hf_hub_filename or "model.safetensors"
        return WeightsInfo(full, "hub", repository, filename, revision or None, mean, std)
    filename = cfg.url.rsplit("/", 1)[-1]
    digest = re.search(r"-([0-9a-f]{8,64})\.", filename)
    return WeightsInfo(
        full, "url", cfg.url, filename, digest.group(1) if digest else None, mean, std
    )


def _usual_scaling(encoder: str) -> tuple[RGB, RGB]:
    """Return mean and standard deviation for a file that does not tell its own."""
    if not TIMM_NAMES.get(encoder, encoder).startswith("tu-"):
        return scaling_of(f"{encoder}.imagenet")
    try:
        info = resolve(encoder, "pretrained")
    except WeightsError:
        info = None
    return (info.mean, info.std) if info else IMAGENET


def _rgb(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _local(encoder: str, path: Path) -> WeightsInfo:
    path = path.absolute()
    if path.is_dir():
        exact = [path / f"{encoder}{suffix}" for suffix in SUFFIXES]
        named = [file for file in exact if file.is_file()] or [
            file
            for file in sorted(path.iterdir())
            if file.suffix in SUFFIXES and re.fullmatch(re.escape(encoder) + r"\.[^.]+", file.stem)
        ]
        if len(named) != 1:
            found = f"several: {', '.join(file.name for file in named)}" if named else "none"
            raise WeightsError(
                f"{path} must hold one weights file named after the encoder, "
                f"e.g. {encoder}.safetensors or {encoder}.pth; it holds {found}"
            )
        path = named[0]
    elif not path.is_file():
        raise WeightsError(
            f"encoder weights {str(path)!r}: no such file or folder; "
            "known besides paths: none, pretrained"
        )
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights files end in {', '.join(SUFFIXES)}")
    record = _record(path)
    mean, std = _usual_scaling(encoder)
    return WeightsInfo(
        name=str(record.get("name", path.stem)),
        kind="file",
        source=str(path),
        filename=path.name,
        revision=record.get("revision"),
        mean=_rgb(record.get("mean", mean)),
        std=_rgb(record.get("std", std)),
    )


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _record(path: Path) -> dict[str, Any]:
    """Return what `fetch` wrote down about a file; empty when it did not fetch it whole."""
    try:
        record = json.loads(_record_path(path).read_text(encoding="utf-8"))
        return dict(record) if record["bytes"] == path.stat().st_size else {}
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return {}


def cached(info: WeightsInfo, cache: Path) -> Path | None:
    """Return the file of `info` in a cache when it is there, whole and of the wanted revision."""
    path = cache / f"{info.name}{Path(info.filename).suffix}"
    record = _record(path)
    return path if record and record.get("wanted") == info.revision else None


def available(
    info: WeightsInfo | None, cache: Path | None = None, *, timeout_s: float = 5.0
) -> Availability:
    """Check, without downloading them, that weights can be had.

    Parameters
    ----------
    info : WeightsInfo or None
        From `resolve`.
    cache : Path, optional
        Where `fetch` would put them; what is there needs no network.
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
    """Download weights once and check them; later calls answer from the cache.

    Of many processes that call this at once on one machine or shared folder one downloads and
    the others wait for it.

    Parameters
    ----------
    info : WeightsInfo
        From `resolve`.
    cache : Path
        Folder, made when absent. Beside the weights lies a JSON file with source, commit,
        SHA-256, mean and standard deviation.

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
        return path
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{info.name}{Path(info.filename).suffix}"
    with FileLock(cache / f".{target.name}.lock"):
        if path := cached(info, cache):  # another process was faster
            return path
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=cache) as folder:
            try:
                file, facts = _download(info, Path(folder))
            except WeightsError:
                raise
            except Exception as error:  # as in `available`
                raise WeightsError(_unreachable(info, error)) from error
            record = {**asdict(info), "wanted": info.revision, **facts}
            # Without its record the file does not count, so one that replaces it comes first.
            _record_path(target).unlink(missing_ok=True)
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(file, target)
            sync_folder(cache)
            write_json(_record_path(target), record)
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
    with open(file, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if expected and not digest.startswith(expected):
        raise WeightsError(
            f"{info.name} from {info.source} is damaged: its SHA-256 is {digest}, "
            f"not {expected}; try again"
        )
    facts = {"sha256": digest, "bytes": file.stat().st_size}
    return file, {**facts, "revision": commit or info.revision or digest}


def _check_scaling(info: WeightsInfo, config: dict[str, Any]) -> None:
    """Check that the published mean and standard deviation are the ones known here."""
    for name, known in (("mean", info.mean), ("std", info.std)):
        published = config.get(name)
        if published is not None and any(
            abs(a - b) > 1e-3 for a, b in zip(published, known, strict=True)
        ):
            raise WeightsError(
                f"{info.name}: {info.source} says {name} {tuple(published)}, "
                f"this version knows {known}; {WAYS_OUT}"
            )
