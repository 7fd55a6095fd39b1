"""After Ctrl-C, SIGTERM or SIGHUP: trials finish their epoch and save, then Tune's run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from sweep.interrupts import Interrupts
from trainables.records.files import remove_matching, write_text
from trainables.records.objects import address_of

STOP = ".stop-"
"""Start of the name of the file that asks the trials of one of Tune's runs to save and to stop."""


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
            write_text(self._file, "")
            if running:
                many = len(running) > 1
                what = "trials finish their epochs and save" if many else "trial finishes and saves"
                self.say(f"stopping: {len(running)} {what} (to stop at once, press Ctrl-C again)")
        self._saving &= {*running}
        if not self._saving or self.interrupts.is_urgent:
            self.interrupts.end()
