"""Trials that hang: without a new epoch for too long, their worker is ended and they try again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from trainables.records.patience import WAITS

SLOWEST = 30.0
"""A trial may take this many times as long as its slowest epoch; validation, a save or a busy
machine are no reason."""
FIRST = 24.0
"""Until its first epoch, when nothing is known of it, a trial may take so many times the limit."""


AWAY_SECONDS = 60.0
"""Time between two looks after which this process itself was stopped, or waited for a disk; trials
then wait until it takes their reports."""


class Hanging:
    """Notices running trials that report nothing.

    Parameters
    ----------
    seconds : float
        Least time without an epoch after which a trial hangs; 0: none ever does.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock = seconds, clock
        self._heard: dict[str, float] = {}
        self._slowest: dict[str, float] = {}
        self._notes: dict[str, int] = {}
        self._looked: float | None = None

    def begin(self, trial_id: str, notes: int = 0) -> None:
        """Note that an attempt begins, and how many notes earlier ones have left."""
        self._heard[trial_id], self._notes[trial_id] = self.clock(), notes
        self._slowest.pop(trial_id, None)

    def hear(self, trial_id: str, seconds: float) -> None:
        """Note that an epoch was reported, and how long it took."""
        self._slowest[trial_id] = max(seconds, self._slowest.get(trial_id, 0.0))
        self._heard[trial_id] = self.clock()

    def excuse(self) -> None:
        """Count from now on: until now, trials may have waited for storage that was away."""
        self._heard = dict.fromkeys(self._heard, self.clock())

    def look(self, running: Iterable[str]) -> dict[str, float]:
        """Return the trials that hang, each once per attempt, with the seconds since their last
        epoch.
        """
        if not self.seconds:
            return {}
        now, found = self.clock(), {}
        away = 0.0 if self._looked is None else now - self._looked - AWAY_SECONDS
        if away > 0:
            self._heard = {trial_id: then + away for trial_id, then in self._heard.items()}
        self._looked = now
        for trial_id in running:
            since = now - self._heard.get(trial_id, now)
            slowest = self._slowest.get(trial_id)
            limit = self.seconds * FIRST if slowest is None else SLOWEST * slowest
            if since >= max(self.seconds, limit):
                found[trial_id] = since
                self._heard.pop(trial_id)
        return found

    def is_waiting(self, trial_id: str, notes: Sequence[str]) -> bool:
        """Whether a trial that `look` returned waits for a full disk, by its notes; it is then
        looked at again later.
        """
        own = notes[self._notes.get(trial_id, 0) :]
        waits = bool(own) and WAITS in own[-1]
        if waits:
            self._heard[trial_id] = self.clock()
        return waits
