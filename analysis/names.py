"""Names of candidates for people: candidates of the same network are told apart by what differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainables.config import TrialConfig
from trainables.names import network_name
from trainables.tasks import settings_of_others

NAMED = ("architecture", "encoder", "task")
"""Settings that a network's name contains."""
NEVER = {"seed", "fold", "weights_id"}
"""Settings that do not tell candidates apart, or that follow from others."""
MOST_NAMED = 3
"""Settings in a name; the table of candidates has all."""
WORDS = {
    "encoder_weights": "weights {}",
    "crop_size": "crops of {}",
    "epochs": "{} epochs",
    "batch_size": "batch size {}",
    "lr_schedule": "{} learning rate",
    "loss": "{} loss",
    "gap": "gap of {}",
    "rays": "{} rays",
    "augmentation": "{} augmentation",
    "early_stopping": "early stopping {}",
    "validate_every": "validated every {} epochs",
    "normalization": "normalised by {}",
}
"""How settings are written; others by their name and value."""


def method_name(config: TrialConfig) -> str:
    """Return a candidate's name with its way of making instances.

    Examples
    --------
    >>> method_name(TrialConfig(architecture="Unet", encoder="resnet18"))
    'U-Net, ResNet-18, 2-class'
    """
    return network_name(config.architecture, config.encoder, config.task)


def candidate_names(configs: Iterable[TrialConfig]) -> dict[str, str]:
    """Return a name for each candidate of a run.

    Parameters
    ----------
    configs : iterable of TrialConfig
        All trials of the run. Candidates whose network has a name of its own are called that.
        Those that share one are called by the settings in which they differ, too; by the first
        `MOST_NAMED` of them, if these tell all apart.

    Returns
    -------
    dict of str to str
        Names by candidate (`TrialConfig.candidate_key`); no name occurs twice.

    Examples
    --------
    >>> trials = [TrialConfig(learning_rate=rate, seed=1) for rate in (1e-3, 3e-4)]
    >>> list(candidate_names(trials).values())[1]
    'U-Net, ResNet-18, 2-class (learning rate 0.0003)'
    """
    alike: dict[str, dict[str, TrialConfig]] = {}
    for config in configs:
        alike.setdefault(method_name(config), {}).setdefault(config.candidate_key(), config)
    names: dict[str, str] = {}
    for name, members in alike.items():
        said = [""] if len(members) == 1 else _told_apart([_values(c) for c in members.values()])
        names |= {key: f"{name} ({text})" if text else name for key, text in zip(members, said)}
    taken: dict[str, int] = {}
    for key, name in names.items():  # what is left alike, such as two files of the same weights
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            names[key] = f"{name} ({taken[name]})"
    return names


def _values(config: TrialConfig) -> dict[str, Any]:
    """Return the settings that may tell a candidate apart, by name."""
    values = config.model_dump(mode="json")
    normalization = values.pop("normalization")
    values["normalization"] = normalization.pop("mode")
    unused = {*settings_of_others(config.task), *NAMED, *NEVER}
    kept = {name: value for name, value in values.items() if name not in unused}
    return kept | {f"normalization {name}": value for name, value in normalization.items()}


def _told_apart(members: list[dict[str, Any]]) -> list[str]:
    """Return what each member of a group is called by: the settings in which they differ."""
    differ = [n for n in members[0] if any(one[n] != members[0][n] for one in members)]
    for count in range(MOST_NAMED, len(differ) + 1):
        said = [_said(one, differ[:count]) for one in members]
        if len(set(said)) == len(members):
            return said
    return [_said(one, differ) for one in members]


def _said(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(_setting(name, values[name]) for name in names)


def _setting(name: str, value: Any) -> str:
    """Write one setting.

    >>> [_setting(*pair) for pair in (("learning_rate", 0.00123456), ("loss", "dice"))]
    ['learning rate 0.00123', 'dice loss']
    """
    text = f"{value:.3g}" if isinstance(value, float) else "none" if value is None else str(value)
    if name == "encoder_weights":
        text = text.rstrip("/").rsplit("/", 1)[-1]  # a path's last part
    return WORDS.get(name, f"{name.replace('_', ' ')} {{}}").format(text)
