"""Write warnings of workers, which Ray does not show, to ``OUT/sweep.log``."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.records.files import send
from trainables.records.objects import is_stored


class _ToSweepLog(logging.Handler):
    """Appends records to a log file, if it exists."""

    def __init__(self, path: Path, trial_id: str) -> None:
        super().__init__(logging.WARNING)
        self.path, self.trial_id = path, trial_id
        # the tracker writes lines of its own to sweep.log
        self.addFilter(lambda record: record.name != "sweep.tracking")

    def emit(self, record: logging.LogRecord) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        host, level = os.uname().nodename, record.levelname.lower()
        line = f"{when} {self.trial_id} on {host}: {level}: {self.format(record)}\n"
        with contextlib.suppress(OSError):  # never at a trial's cost
            if self.path.is_file():
                with self.path.open("a", encoding="utf-8") as handle:
                    handle.write(line)


@contextmanager
def warnings_to_sweep_log(out: Path, trial_id: str) -> Iterator[None]:
    """Write warnings and errors of a worker's libraries also to ``sweep.log``.

    If the run folder is in an object store, where files cannot be appended to, they are written to
    ``logs/TRIAL.HOST.log``, which is sent at the end of the block.

    Parameters
    ----------
    out : Path
        The run folder.
    trial_id : str
        Written at the beginning of each line.
    """
    path = out / "sweep.log"
    if is_stored(out):
        path = out / "logs" / f"{trial_id}.{os.uname().nodename}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    handler, root = _ToSweepLog(path, trial_id), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        if is_stored(out) and path.stat().st_size:
            with contextlib.suppress(OSError):
                send(path)
