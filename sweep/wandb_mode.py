"""How W&B is used: online or offline, which server, and which settings."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "off"]

_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "off",
    "off": "off",
}
QUIET: dict[str, Any] = {
    "silent": True,
    "symlink": False,  # "latest-run" means nothing where trials run side by side
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    # a list of packages and machine data per trial cost ten times the rest; plan.json has the
    # versions once
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
"""Settings of W&B's client for all runs."""


def wandb_settings() -> dict[str, str]:
    """Return the content of W&B's settings files: the user's, then the current folder's."""
    user = os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([Path(user).expanduser() / "settings", Path("wandb/settings")])
    except (OSError, configparser.Error):
        return {}
    return dict(parser["default"]) if parser.has_section("default") else {}


def server(settings: dict[str, str]) -> str:
    """Return the address of the W&B server."""
    return os.environ.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"


def key_source(settings: dict[str, str]) -> str:
    """Return where W&B would find credentials, without asking the user; '' if nowhere."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return f"{name} in the environment"
    if settings.get("api_key"):
        return "api_key in W&B's settings file"
    host = urlsplit(server(settings)).netloc or "api.wandb.ai"
    try:
        file = os.environ.get("NETRC")
        known = netrc.netrc(Path(file).expanduser() if file else None)
    except (OSError, netrc.NetrcParseError):
        return ""
    return (file or "~/.netrc") if known.authenticators(host) is not None else ""


def wandb_mode(requested: str | None) -> Mode:
    """Decide how to use W&B, without using the network, asking the user or importing W&B.

    Parameters
    ----------
    requested : {"online", "offline", "off"} or None
        None means the value of ``WANDB_MODE``, else ``mode`` in W&B's settings files (``wandb
        offline``), else online if an API key is configured (``WANDB_API_KEY``, netrc, settings),
        else offline.

    Raises
    ------
    sweep.request.RequestError
        When the mode is unknown.
    """
    settings = wandb_settings()
    asked = requested or os.environ.get("WANDB_MODE") or settings.get("mode")
    if not asked:
        return "online" if key_source(settings) else "offline"
    if asked not in _MODES:
        from sweep.request import RequestError

        source = "--wandb" if requested else "WANDB_MODE"
        raise RequestError(f"{source}={asked}: choose online, offline or off")
    return _MODES[asked]


def seconds(variable: str, default: float) -> float:
    """Return the value of a W&B variable in seconds, or the default if it is not set."""
    with contextlib.suppress(ValueError):
        return float(os.environ.get(variable, ""))
    return default
