"""Encoder weights of a sweep: found by the driver, recorded in every trial, fetched once.

Imports torch only if a trial starts from published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.request import Pair, Request, RequestError
from trainables.config import TrialConfig
from trainables.encoders.weights import (
    WeightsError,
    WeightsInfo,
    available,
    fetch,
    identify,
    is_path,
    pinned,
    resolve,
)


def name_weights(request: Request, out: Path, recorded: Mapping[str, Any] | None) -> Request:
    """Record in every configuration the identity of the weights that its encoder starts from.

    Parameters
    ----------
    request : Request
    out : Path
        The run folder; fetched weights are in ``OUT/weights``.
    recorded : mapping or None
        Contents of plan.json. Weights that it names are kept, without using the network. A local
        file is read again, so that other content at the same path makes another trial.

    Returns
    -------
    Request
        The request with ``weights_id`` in its configurations, and with `Request.weights`.

    Raises
    ------
    RequestError
        When such weights do not exist or are not available.
    """
    known = _recorded(recorded)
    found: dict[Pair, WeightsInfo | str] = {}
    missing: dict[str, str] = {}
    for encoder, choice in _pairs(request):
        before = known.get((encoder, choice))
        if before and not (is_path(choice) and Path(choice).exists()):
            found[encoder, choice] = before
            continue
        try:
            info = resolve(encoder, choice)
        except (WeightsError, ValueError) as error:
            missing[encoder] = str(error)
            continue
        if info is not None:
            found[encoder, choice] = info
    if missing:
        raise RequestError(_say_missing(request, missing))
    try:
        weights = {
            pair: identify(info, out / "weights") if isinstance(info, WeightsInfo) else info
            for pair, info in found.items()
        }
    except WeightsError as error:
        raise RequestError(str(error)) from error
    return named(replace(request, weights=weights), known)


def named(request: Request, recorded: Mapping[Pair, str] | None = None) -> Request:
    """Write the identities of `Request.weights` into the configurations.

    For trials that ``--only`` left out, they are taken from the recorded run, if it has them.
    """
    ids = {pair: _identity(info) for pair, info in request.weights.items()}
    ids = {**(recorded or {}), **ids}

    def name(config: TrialConfig) -> TrialConfig:
        wanted = ids.get((config.encoder, config.encoder_weights), "")
        return config.model_copy(update={"weights_id": wanted})

    return replace(
        request,
        configs=tuple(name(config) for config in request.configs),
        left_out=tuple(name(config) for config in request.left_out),
    )


def check_weights(request: Request, out: Path) -> Request:
    """Check that the weights that a recorded run names are available.

    Returns
    -------
    Request
        The request with full information in `Request.weights`.

    Raises
    ------
    RequestError
        When they are not available.
    """
    weights: dict[Pair, WeightsInfo | str] = {}
    for pair, info in request.weights.items():
        if not isinstance(info, WeightsInfo):
            try:
                found = resolve(*pair)
            except WeightsError as error:
                raise RequestError(str(error)) from error
            assert found is not None
            info = pinned(found, info) or found
            answer = available(info, out / "weights")
            if not answer:
                raise RequestError(answer.message)
        weights[pair] = info
    return replace(request, weights=weights)


def fetch_weights(request: Request, out: Path) -> None:
    """Fetch all weights once, before any trial starts, into a folder that all trials use."""
    for info in request.weights.values():
        assert isinstance(info, WeightsInfo)
        try:
            fetch(info, out / "weights")
        except WeightsError as error:
            raise RequestError(str(error)) from error


def weights_ids(request: Request) -> dict[str, str]:
    """Return identities by encoder and weights, for configurations that a search draws."""
    return {" ".join(pair): _identity(info) for pair, info in request.weights.items()}


def _identity(info: WeightsInfo | str) -> str:
    return info.identity if isinstance(info, WeightsInfo) else info


def _pairs(request: Request) -> list[Pair]:
    """Return every encoder with its weights, including those that a search may draw."""
    drawn = request.space.dimensions if request.settings.search != "grid" else {}
    pairs = {
        (str(encoder), str(choice)): None
        for config in request.configs
        for encoder in drawn.get("encoder", [config.encoder])
        for choice in drawn.get("encoder_weights", [config.encoder_weights])
    }
    return [pair for pair in pairs if pair[1] != "none"]


def _recorded(recorded: Mapping[str, Any] | None) -> dict[Pair, str]:
    if recorded is None:
        return {}
    configs = [trial["config"] for trial in recorded["trials"]] + recorded["key"].get("base", [])
    return {(c["encoder"], c["encoder_weights"]): c.get("weights_id", "") for c in configs}


def _say_missing(request: Request, missing: Mapping[str, str]) -> str:
    """Say in one line which encoders lack the weights, and what to do."""
    text = " | ".join(missing.values())
    rest = [e for e in dict.fromkeys(c.encoder for c in request.configs) if e not in missing]
    rest = [encoder for encoder in rest if encoder != "none"]
    if not rest:
        return text
    return (
        f"{text}. Leave out {' and '.join(missing)}, so that all encoders start from the same "
        f"data (--set encoder={','.join(rest)}); or use encoder_weights=none for all; or train "
        "those encoders with other weights in a separate run (--out)"
    )
