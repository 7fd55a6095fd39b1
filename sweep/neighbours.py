"""How many other trials ran beside a trial: its training time is longer than it would be alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def trials_beside(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how many other trials ran at the same time on the same GPU, or, for trials without a
    GPU, without one on the same node.

    Parameters
    ----------
    records : mapping of str to mapping
        The ledger's records by trial_id. Attempts of which the end is not known (the worker was
        killed) do not count.

    Returns
    -------
    dict of str to float
        Mean over the time that the trial ran, for trials of which an attempt has ended. Of several
        GPUs of a trial, that with the most others.

    Examples
    --------
    >>> def ran(start: int, end: int) -> dict[str, Any]:
    ...     return {"attempts": [{"node": "n", "started": start, "ended": end}]}
    >>> trials_beside({"first": ran(0, 10), "second": ran(5, 10), "third": ran(10, 12)})
    {'first': 0.5, 'second': 1.0, 'third': 0.0}
    """
    places: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for trial_id, record in records.items():
        for attempt in record.get("attempts", ()):
            ended = attempt.get("ended")
            if ended is not None and ended > attempt["started"]:
                for gpu in attempt.get("gpus") or [""]:
                    one = (trial_id, float(attempt["started"]), float(ended))
                    places.setdefault((attempt["node"], gpu), []).append(one)
    found: dict[str, float] = {}
    for attempts in places.values():
        spans = np.array([(start, end) for _, start, end in attempts])
        together: dict[str, tuple[float, float]] = {}
        for (trial_id, start, end), shared in zip(attempts, _shared(spans).tolist()):
            seconds, others = together.get(trial_id, (0.0, 0.0))
            together[trial_id] = (seconds + end - start, others + shared)
        for trial_id, (seconds, others) in together.items():
            found[trial_id] = max(found.get(trial_id, 0.0), others / seconds)
    return {trial_id: found[trial_id] for trial_id in records if trial_id in found}


def _shared(spans: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each span of time (start, end) how long it overlaps all others together."""
    times = np.unique(spans)
    places = np.searchsorted(times, spans)
    running = np.cumsum(
        np.bincount(places[:, 0], minlength=len(times))
        - np.bincount(places[:, 1], minlength=len(times))
    )
    # the integral over time of the number of spans
    area = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(times))])
    inside = area[places[:, 1]] - area[places[:, 0]]
    return np.asarray(np.maximum(inside - (spans[:, 1] - spans[:, 0]), 0.0))
