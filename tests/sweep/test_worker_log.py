"""What workers log as a warning or worse stands in ``sweep.log``."""

from __future__ import annotations

import logging
from pathlib import Path

from sweep.worker_log import warnings_to_sweep_log


def test_lines_of_a_trial(tmp_path: Path) -> None:
    log, logger = tmp_path / "sweep.log", logging.getLogger("some.library")
    with warnings_to_sweep_log(tmp_path, "a-1"):
        logger.warning("no driver has made the file yet")
        assert not log.exists()
        log.write_text("before\n")
        logger.warning("first %d", 1)
        logging.getLogger("sweep.tracking").warning("written by itself")
        logger.info("not worth a line")
        try:
            raise ValueError("the reason")
        except ValueError:
            logger.exception("second")
    logger.warning("after the trial")
    before, first, *second = log.read_text().splitlines()
    assert before == "before"
    assert " a-1 on " in first
    assert first.endswith(": warning: first 1")
    assert second[0].endswith(": error: second")
    assert second[-1] == "ValueError: the reason"


def test_why_a_trial_failed_is_in_the_log_of_its_sweep(swept: Path) -> None:
    log = (swept / "sweep.log").read_text()
    (line,) = (one for one in log.splitlines() if ": error: trial " in one)
    assert "no_such_network" in line
    assert "Traceback (most recent call last):" in log
