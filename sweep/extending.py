"""What becomes of each trial when a command is run on a folder that has a run: for ``--plan``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainables.config import STARDIST, TrialConfig
from trainables.data.splits import some
from trainables.records.lasting import is_kept
from trainables.records.manifest import missing_file
from trainables.records.progress import read_result
from trainables.records.resumable import saved

NOT_KEPT = "the last states were not kept (keep_last_state=true keeps them)"
SHOWN = 3
"""Most trials that a line names."""


class Shorter:
    """Finds recorded trials that differ from others only in having fewer epochs.

    Parameters
    ----------
    recorded : iterable of mapping
        Entries of ``trials`` of plan.json.
    """

    def __init__(self, recorded: Iterable[Mapping[str, Any]]) -> None:
        defaults = TrialConfig().model_dump(mode="json")
        self._known: dict[str, list[tuple[int, str]]] = {}
        self._epochs: dict[str, int] = {}
        for trial in recorded:
            epochs, rest = _apart({**defaults, **trial["config"]})
            self._known.setdefault(rest, []).append((epochs, trial["trial_id"]))
            self._epochs[trial["trial_id"]] = epochs

    def of(self, config: Mapping[str, Any]) -> list[str]:
        """Return the trial_ids of the trials that are shorter than one, the longest first."""
        epochs, rest = _apart(config)
        found = [one for one in self._known.get(rest, ()) if one[0] < epochs]
        return [trial_id for _, trial_id in sorted(found, reverse=True)]

    def continued(self, config: Mapping[str, Any], out: Path, scheduler: str) -> str | None:
        """Return the trial_id of the trial that one can continue; None if there is none."""
        if why_anew(TrialConfig.model_validate(config), scheduler):
            return None
        every = config["validate_every"]
        for trial_id in self.of(config):
            # its last epoch was validated in any case, which the longer one would not have done
            if self._epochs[trial_id] % every == 0 and is_kept(out / "checkpoints" / trial_id):
                return trial_id
        return None


def _apart(config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the epochs of a configuration, and everything else as text."""
    rest = {name: value for name, value in config.items() if name != "epochs"}
    return config["epochs"], json.dumps(rest, sort_keys=True)


def why_anew(config: TrialConfig, scheduler: str) -> str:
    """Return why a trial with more epochs can never continue one with fewer; empty if it can."""
    if config.architecture == STARDIST:
        return f"{STARDIST} keeps no state"
    if config.lr_schedule != "constant":
        return f"the learning rate of lr_schedule={config.lr_schedule} depends on the epochs"
    if config.early_stopping is not None:
        return "early_stopping may have ended the shorter ones"
    if scheduler != "fifo":
        return f"scheduler={scheduler} may stop them at any epoch"
    return ""


def work_lines(
    todo: Collection[str],
    configs: Mapping[str, TrialConfig],
    recorded: Mapping[str, Any] | None,
    out: Path,
    scheduler: str = "fifo",
) -> list[str]:
    """Return lines that say which trials are new, continued, and trained anew.

    Parameters
    ----------
    todo : collection of str
        trial_ids to run.
    configs : mapping
        Configurations of these trials and others, by trial_id.
    recorded : mapping or None
        Contents of plan.json; None if there is no run yet.
    out : Path
        The run folder.
    scheduler : str
        Of the command.
    """
    if recorded is None:
        return []
    old, shorter = {t["trial_id"] for t in recorded["trials"]}, Shorter(recorded["trials"])
    begun: dict[str, list[str]] = {}
    anew: dict[str, list[str]] = {}
    for trial_id in todo:
        if trial_id in old or trial_id not in configs:  # of a search, perhaps
            folder = out / "checkpoints" / trial_id
            state = saved(folder)
            epoch, known = state.epoch, bool(state.rows) or state.within
            what = "continued from their saved states" if known else "from their first epoch"
            if read_result(folder) is not None and missing_file(folder) is None:
                # killed before it was recorded, or its record was removed
                known, what = False, "with a result that only has to be recorded"
            where = f" (within epoch {epoch + 1})" if state.within else f" (epoch {epoch})"
            begun.setdefault(what, []).append(f"{trial_id}{where if known else ''}")
            continue
        config = configs[trial_id].model_dump(mode="json")
        if not shorter.of(config):
            begun.setdefault("new, not in plan.json", []).append(trial_id)
        elif shorter.continued(config, out, scheduler):
            begun.setdefault("with more epochs, continued from shorter ones", []).append(trial_id)
        else:
            why = why_anew(configs[trial_id], scheduler) or NOT_KEPT
            anew.setdefault(why, []).append(trial_id)
    lines = [f"{len(ids)} {what}: {some(ids, SHOWN)}" for what, ids in begun.items()]
    lines += [
        f"{len(ids)} with more epochs, trained anew from the first one, because {why}; those with "
        f"fewer stay in the leaderboard: {some(ids, SHOWN)}"
        for why, ids in anew.items()
    ]
    return lines
