"""What keeps a worker from taking a trial: its node does not see the folders, or its GPU is of no
use. Told to the driver through Ray; it is no attempt at the trial, which is tried on other nodes.
"""

from __future__ import annotations

import time
from typing import Any

from sweep.cluster.nodes import any_node_left
from sweep.cluster.visibility import look, name_of, this_node
from sweep.limits import Limits
from trainables.config import STARDIST, TrialConfig

FIRST_HOLD_SECONDS, MOST_HOLD_SECONDS = 5.0, 60.0
"""A worker that refuses trials keeps each for so long, doubled each time."""
_holds = 0


def is_blind(runtime: dict[str, Any], limits: Limits, node: str) -> bool:
    """Whether this node does not see the run folder or the data; the driver would not find what is
    written here.

    Parameters
    ----------
    runtime : dict
        As `sweep.trial.run_trial` takes it.
    limits : Limits
        What the trial may take.
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
    """Whether a trial has a share of a GPU on which torch cannot compute: it would fail here, the
    GPU would be free again at once, and draw one waiting trial after the other.

    Parameters
    ----------
    config : TrialConfig
        Of stardist's own model TensorFlow says itself that it sees no GPU.
    limits, node
        As `is_blind` takes them.
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
