"""Which encoder weights exist, and what they were trained on. Needs no network.

Accepted everywhere are ``none`` (random), ``pretrained`` (trained on ImageNet-1k and nothing
else, so that encoders can be compared), the name of other published weights, such as ``swsl``
(`licences.TRAINING_DATA`, or timm's tag for a ``tu-`` encoder), and the path of a file
or folder.

Importing this module imports no torch.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.config import NO_ENCODER
from trainables.encoders.licences import (
    IMAGENET_1K,
    NOT_KNOWN,
    Terms,
    tag_is_imagenet_1k,
    terms_of,
    terms_of_timm,
)
from trainables.encoders.loading import SUFFIXES, WeightsError
from trainables.encoders.names import IMAGENET, RGB, TIMM_NAMES, check_encoder, scaling_of

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
    terms: Terms
    """What they were trained on, and their licence."""
    mean: RGB
    """Mean of the red, green and blue channel, on `input_range`."""
    std: RGB
    """Standard deviation of the red, green and blue channel."""
    input_space: str = "RGB"
    """Order of the channels."""
    input_range: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest value of an image before scaling."""
    sha256: str | None = None
    """Of the file; None: not known yet (see `identify`)."""

    @property
    def identity(self) -> str:
        """Which bytes these are: ``<source>@<revision>#<SHA-256>``, the latter where known."""
        if self.kind == "file":
            return f"{self.filename}#{self.sha256 or ''}"
        return f"{self.source}@{self.revision or ''}#{self.sha256 or ''}"

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint and a cache record about the weights, ready for JSON."""
        terms = asdict(self.terms)
        facts = {k: v for k, v in asdict(self).items() if k != "terms"}
        return {
            **facts,
            "training_data": terms["data"],
            "licence": terms["licence"],
            "licence_source": terms["source"],
            "identity": self.identity,
        }

    @property
    def grey_mean(self) -> float:
        """Mean for grey images: the average over the channels."""
        return sum(self.mean) / len(self.mean)

    @property
    def grey_std(self) -> float:
        """Standard deviation for grey images: the average over the channels."""
        return sum(self.std) / len(self.std)


def resolve(encoder: str, encoder_weights: str | Path | None) -> WeightsInfo | None:
    """Find out which weights are meant; needs no network.

    Parameters
    ----------
    encoder : str
        As `trainables.architectures.build_model` takes it.
    encoder_weights : str or path, optional
        ``none``, ``pretrained``, the name of other published weights, a file
        (``.safetensors``, ``.pth``, ``.pt``), or a folder with a file named after the encoder:
        ``resnet152.pth``, or ``resnet152.imagenet.safetensors`` as `fetch` names it.

    Returns
    -------
    WeightsInfo or None
        None for ``none``.

    Raises
    ------
    WeightsError
        When there are no such weights; the message lists those available, with licences.
    ValueError
        When the encoder is not known.
    """
    choice = "none" if encoder_weights is None else str(encoder_weights)
    if (encoder, choice.lower()) == (NO_ENCODER, "none"):
        return None
    check_encoder(encoder)
    if choice.lower() == "none":
        return None
    if isinstance(encoder_weights, Path) or is_path(choice):
        return _local(encoder, Path(choice).expanduser())
    if choice.lower() in ("pretrained", "imagenet"):
        choice = "pretrained"
    name = TIMM_NAMES.get(encoder, encoder)
    if name.startswith("tu-"):
        return _timm(encoder, name.removeprefix("tu-"), choice)
    return _native(encoder, choice)


def is_path(choice: str) -> bool:
    """Tell whether a value of ``encoder_weights`` is a path rather than a name.

    Examples
    --------
    >>> [is_path(choice) for choice in ("swsl", "./swsl", "mine.pth")]
    [False, True, True]
    """
    return os.sep in choice or choice.startswith("~") or choice.endswith(SUFFIXES)


def _none_such(encoder: str, choice: str, there: dict[str, Terms]) -> WeightsError:
    """Say what weights an encoder has instead of those that were asked for."""
    listed = "; ".join(f"encoder_weights={name} ({terms})" for name, terms in there.items())
    if choice == "pretrained":
        wrong = f"no weights trained on {IMAGENET_1K} alone are published for {encoder}"
    else:
        wrong = f"encoder_weights={choice}: no such weights are published for {encoder}"
    return WeightsError(f"{wrong}; available: {listed or 'none'}")


def _native(encoder: str, choice: str) -> WeightsInfo:
    from segmentation_models_pytorch.encoders import encoders as registry

    settings = registry[encoder]["pretrained_settings"]
    variant = "imagenet" if choice == "pretrained" else choice
    if variant not in settings:
        there = {name: terms_of(encoder, name) for name in settings}
        if "imagenet" in there:
            there["pretrained"] = there.pop("imagenet")
        raise _none_such(encoder, choice, there)
    name = f"{encoder}.{variant}"
    mean, std = scaling_of(name)
    repository, revision = settings[variant]["repo_id"], settings[variant]["revision"]
    terms = terms_of(encoder, variant)
    return WeightsInfo(name, "hub", repository, "model.safetensors", revision, terms, mean, std)


def _timm(encoder: str, model: str, choice: str) -> WeightsInfo:
    """Find weights in timm's registry; ``pretrained`` is its first of ImageNet-1k alone."""
    import timm

    if not timm.models.is_model(model.partition(".")[0]):
        raise WeightsError(f"{encoder}: timm has no network of this name; {WAYS_OUT}")
    model, _, wanted = model.partition(".")
    configs = {
        name.partition(".")[2]: cfg
        for name, cfg in timm.models.get_arch_pretrained_cfgs(model).items()
        if not cfg.custom_load and (cfg.hf_hub_id or cfg.url)
    }
    if wanted:  # the encoder's name says which
        configs = {tag: cfg for tag, cfg in configs.items() if tag == wanted}
    terms = {tag: terms_of_timm(tag, c.license, c.origin_url) for tag, c in configs.items()}
    found = [
        tag
        for tag in configs
        if tag == choice or (choice == "pretrained" and tag_is_imagenet_1k(tag))
    ]
    if not found:
        raise _none_such(encoder, choice, terms)
    tag, cfg = found[0], configs[found[0]]
    # Named after the encoder as asked for, so that a cache can serve as a local folder.
    full = f"{encoder}.{tag}" if tag and not encoder.endswith(f".{tag}") else encoder
    scaling = _rgb(cfg.mean), _rgb(cfg.std)
    if cfg.hf_hub_id:
        repository, _, revision = cfg.hf_hub_id.partition("@")
        filename = cfg.hf_hub_filename or "model.safetensors"
        return WeightsInfo(
            full, "hub", repository, filename, revision or None, terms[tag], *scaling
        )
    filename = cfg.url.rsplit("/", 1)[-1]
    digest = re.search(r"-([0-9a-f]{8,64})\.", filename)
    return WeightsInfo(
        full, "url", cfg.url, filename, digest.group(1) if digest else None, terms[tag], *scaling
    )


def _usual_scaling(encoder: str) -> tuple[RGB, RGB]:
    """Return mean and standard deviation for a file that does not tell its own."""
    if not TIMM_NAMES.get(encoder, encoder).startswith("tu-"):
        return scaling_of(f"{encoder}.imagenet")
    import timm

    try:
        cfg = timm.get_pretrained_cfg(TIMM_NAMES.get(encoder, encoder).removeprefix("tu-"))
    except RuntimeError:  # a network, or weights of it, that timm does not know
        cfg = None
    return (_rgb(cfg.mean), _rgb(cfg.std)) if cfg else IMAGENET


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
                f"{path} must contain one weights file named after the encoder, "
                f"e.g. {encoder}.safetensors or {encoder}.pth; it contains {found}"
            )
        path = named[0]
    elif not path.is_file():
        raise WeightsError(f"encoder weights {str(path)!r}: no such file or folder")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights files end in {', '.join(SUFFIXES)}")
    record = read_record(path)
    mean, std = _usual_scaling(encoder)
    return WeightsInfo(
        name=str(record.get("name", path.stem)),
        kind="file",
        source=str(path),
        filename=path.name,
        revision=record.get("revision"),
        terms=Terms(
            str(record.get("training_data", "unknown data (your own file)")),
            str(record.get("licence", NOT_KNOWN)),
            str(record.get("licence_source", "")),
        ),
        mean=_rgb(record.get("mean", mean)),
        std=_rgb(record.get("std", std)),
    )


def record_path(path: Path) -> Path:
    """Return where `trainables.encoders.weights.fetch` records what it knows of a file."""
    return path.with_name(path.name + ".json")


def read_record(path: Path) -> dict[str, Any]:
    """Return what `fetch` recorded about a file; empty if it did not download all of it."""
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        return dict(record) if record["bytes"] == path.stat().st_size else {}
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return {}
