"""Reasons for a worker to refuse a trial: its node cannot find the folders, or cannot use its GPU.
The worker reports this through Ray. It does not count as an attempt; the trial runs on another
node.
"""

from __future__ import annotations

import time
from typing import Any

from sweep.cluster.nodes import any_node_left
from sweep.cluster.visibility import look, this_node
from sweep.limits import Limits
from trainables.config import STARDIST, TrialConfig
from trainables.machine.addresses import name_of

FIRST_HOLD_SECONDS, MOST_HOLD_SECONDS = 5.0, 60.0
"""How long a worker holds a trial that it refuses, doubled with each trial."""
_holds = 0


def is_blind(runtime: dict[str, Any], limits: Limits, node: str) -> bool:
    """Whether this node cannot find the run folder or the data; results written here would be lost.

    Parameters
    ----------
    runtime : dict
        See `sweep.trial.run_trial`.
    limits : Limits
        Limits of the trial.
    node : str
        Ray's id of this node.
    """
    if not runtime.get("token"):
        return False
    problems = look(
        node,
        runtime["out"],
        runtime["token"],
        runtime["data"],
        runtime["data_options"],
        runtime["fingerprint"],
    )
    if problems:
        _refuse(node, limits, f"it {' and '.join(problems)}")
    return bool(problems)


def is_without_gpu(config: TrialConfig, limits: Limits, node: str) -> bool:
    """Whether a trial has a share of a GPU that torch cannot use. It would fail here and free the
    GPU at once, and all waiting trials would follow it.

    Parameters
    ----------
    config : TrialConfig
        Not checked for StarDist's own model, where TensorFlow reports a missing GPU itself.
    limits, node
        See `is_blind`.
    """
    if not limits.gpu or config.architecture == STARDIST:
        return False
    from trainables.predict import why_no_gpu

    why = why_no_gpu()
    if why is not None:
        _refuse(node, limits, f"it has no GPU that torch can use ({why})", gpu=True)
    return why is not None


def _refuse(node: str, limits: Limits, why: str, gpu: bool = False) -> None:
    global _holds
    from ray import tune

    refused = {"node": node, "name": name_of(this_node()), "why": why, "gpu": gpu}
    # no score: schedulers and searches take no note of it
    tune.report({"score": float("nan"), "refused": refused})
    if any_node_left({node}, limits.cpus or 0.0, limits.gpu):
        # the next trial would come here, too, and have to wait for another round
        time.sleep(min(MOST_HOLD_SECONDS, FIRST_HOLD_SECONDS * 2**_holds))
        _holds += 1
