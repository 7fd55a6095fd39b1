"""The clock jumps by two hours in the middle of a sweep, in all of its processes; see clock.c."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sweep.command_line import QUICK, SPACE, kill, rows, run, start, wait_for

SOURCE = Path(__file__).with_name("clock.c")
HOUR = 3600


class Clock:
    """A clock that this test sets for other processes."""

    def __init__(self, folder: Path) -> None:
        self.file, self.library = folder / "jump", folder / "clock.so"
        self.file.write_text(f"{0:<4095}")
        words = ["cc", "-shared", "-fPIC", "-o", str(self.library), str(SOURCE), "-ldl"]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no library can be compiled here")

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "JUMP": str(self.file)}

    def set(self, seconds: int) -> None:
        with open(self.file, "r+") as handle:
            handle.write(f"{seconds:<30}")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


def test_the_clock_can_be_set(clock: Clock) -> None:
    """And only the time of day changes: waits take as long as before."""
    program = (
        "import time, threading\n"
        "while input():\n"
        "    a, b = time.time(), time.monotonic()\n"
        "    threading.Event().wait(0.2)\n"
        "    time.sleep(0.2)\n"
        "    print(a, b, time.monotonic() - b, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=clock.environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def look() -> list[float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("x\n")
            process.stdin.flush()
            return [float(word) for word in process.stdout.readline().split()]

        before = look()
        clock.set(2 * HOUR)
        after = look()
        clock.set(-2 * HOUR)
        last = look()
        process.stdin.write("\n")
    assert 2 * HOUR <= after[0] - before[0] < 2 * HOUR + 60
    assert -2 * HOUR <= last[0] - before[0] < -2 * HOUR + 60
    assert 0 < last[1] - before[1] < 60
    assert all(0.39 <= waited < 10 for *_, waited in (before, after, last))


@pytest.mark.slow
def test_a_clock_that_jumps_by_two_hours(data: Path, tmp_path: Path, clock: Clock) -> None:
    out = tmp_path / "run"
    words: tuple[object, ...] = (
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *QUICK,
        "--wandb",
        "off",
        "--max-hours",
        1,
    )
    words += ("--set", "architecture=Unet,FPN", "--set", "epochs=12")
    words += ("--set", "checkpoint_seconds=0.001", "--set", "hang_seconds=600")

    def epochs(least: int) -> Callable[[], bool]:
        history = out / "history.csv"
        return lambda: history.exists() and len(rows(out, "history.csv")) >= least

    process = start(*words, cwd=tmp_path, **clock.environment)
    wait_for(epochs(2), process)
    clock.set(2 * HOUR)
    # a second sweep does not take the lock for an old one
    code, text, err = run(*words, "--resume", cwd=tmp_path, **clock.environment)
    assert (code, "already running" in err) == (2, True), text + err
    watching = start("--watch", out, cwd=tmp_path, **clock.environment)
    wait_for(epochs(6), process)
    assert watching.poll() is None
    watching.send_signal(signal.SIGINT)
    text, _err = watching.communicate(timeout=100)
    assert all(line.startswith(("0:", "1:", "2:", "3:")) for line in text.splitlines()[1:2]), text
    # what is saved from here on looks two hours older than what was saved before
    clock.set(-2 * HOUR)
    wait_for(epochs(10), process)
    kill(process)
    before = len(rows(out, "history.csv"))
    process = start(*words, "--resume", cwd=tmp_path, **clock.environment)
    wait_for(epochs(before + 2), process)
    clock.set(0)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert "continued from their saved states" in text
    assert not [word for word in ("hangs", "trying again", "damaged") if word in text]
    (took,) = [line for line in text.splitlines() if line.startswith("this took")]
    assert took.count(":") == 1, "an hour or more"
    assert [row["status"] for row in rows(out)] == ["done", "done"]
    history = rows(out, "history.csv")
    assert len(history) == 24
    assert all(0 < float(row["seconds"]) < 600 for row in history)
