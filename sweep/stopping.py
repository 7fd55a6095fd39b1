"""After Ctrl-C, SIGTERM or SIGHUP: trials save their states and stop, then Tune's run ends.

After Ctrl-C they finish their epoch first; after SIGTERM or SIGHUP they stop at their next step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from sweep.interrupts import Interrupts
from trainables.records.files import remove_matching
from trainables.records.objects import address_of
from trainables.records.stops import EPOCH, STEP, ask

STOP = ".stop-"
"""Start of the name of the file that asks the trials of one of Tune's runs to save and to stop."""

WHAT = {
    EPOCH: (
        "1 trial finishes its epoch and saves (to stop at once, press Ctrl-C again)",
        "trials finish their epochs and save (to stop at once, press Ctrl-C again)",
    ),
    STEP: ("1 trial saves at its next training step", "trials save at their next training step"),
}
"""What one trial does that is asked to stop, and what several do."""


class Stopping:
    """Asks trials to stop, and waits for them.

    Parameters
    ----------
    out : Path
        The run folder.
    interrupts : Interrupts
    say : callable
        Takes a line for the user.
    """

    def __init__(self, out: Path, interrupts: Interrupts, say: Callable[[str], object]) -> None:
        self.out, self.interrupts, self.say = out, interrupts, say
        self._file = out / STOP
        self._saving: set[str] | None = None
        self._asked = ""

    def begin(self) -> tuple[str, str]:
        """Return a name for the next of Tune's runs, and its file that asks trials to stop."""
        self.forget()
        name = f"{time.time_ns():x}"
        self._file = self.out / f"{STOP}{name}"
        return name, address_of(self._file)

    def forget(self) -> None:
        """Remove the files that ask trials to stop."""
        remove_matching(self.out, f"{STOP}*")

    def look(self, running: Collection[str]) -> None:
        """Do what the present state demands.

        Parameters
        ----------
        running : collection of str
            Ids of the trials that are running now. Those that Tune starts after the signal end at
            once, and are not waited for.
        """
        if not self.interrupts.happened:
            return
        if self._saving is None:
            self._saving = {*running}
        self._saving &= {*running}
        when = STEP if self.interrupts.is_hurried else EPOCH
        if self._asked != when:
            self._asked = when
            ask(self._file, when)
            if self._saving:
                one, several = WHAT[when]
                count = len(self._saving)
                self.say(f"stopping: {one if count == 1 else f'{count} {several}'}")
        if not self._saving or self.interrupts.is_urgent:
            self.interrupts.end()
