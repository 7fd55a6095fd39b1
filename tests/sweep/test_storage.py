"""Storage that fails: a full disk, a folder that knows no locks, a folder that is held."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweep.request import RequestError
from sweep.runfolder import LEFTOVER_SECONDS, lock, say_storage_error, storage_error
from tests.sweep.command_line import QUICK, SPACE, TINY_TUNE, make_data, rows, run, start, wait_for
from trainables.config import EpochRecord, RunOptions
from trainables.records import patience
from trainables.records.attempts import Attempt
from trainables.records.resumable import Form, Progress
from trainables.records.store import StoreError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write until nothing goes in any more."""
    with open(path, "wb", buffering=0) as handle:
        size = 2**20
        while size:
            try:
                handle.write(bytes(size))
            except OSError:
                size //= 2


@pytest.mark.slow
@pytest.mark.parametrize("then", ["there is space again", "Ctrl-C"])
def test_a_sweep_waits_for_a_full_disk(then: str, small_disk: Path, tmp_path: Path) -> None:
    """All tables, records and saved states of the sweep are on the disk."""
    out, data = small_disk / "run", make_data(tmp_path / "data")
    words: tuple[object, ...] = (SPACE, "--data", data, "--out", out, *QUICK, *TINY_TUNE)
    words += ("--set", "architecture=Unet", "--set", "epochs=25")
    process = start(*words, cwd=tmp_path)
    wait_for(lambda: list(out.glob("ledger/history/*.json")), process, 500)
    fill(small_disk / "filler")
    time.sleep(20)
    assert process.poll() is None, process.communicate()
    if then == "Ctrl-C":
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=500)
        assert process.returncode in (1, 130), text + err
        assert "--resume" in text + err
        assert "Traceback" not in text + err
        (small_disk / "filler").unlink()
        code, text, err = run(*words, "--resume", cwd=tmp_path)
        assert code == 0, text + err
    else:
        (small_disk / "filler").unlink()
        text, err = process.communicate(timeout=500)
        assert process.returncode == 0, text + err
        assert "No space left on" in text
        assert "the sweep waits and tries again every 10 seconds" in text
    assert [row["status"] for row in rows(out)] == ["done"]
    assert len(rows(out, "history.csv")) == 25


def test_a_disk_that_is_full_from_the_start_is_said_in_one_line(
    small_disk: Path, tmp_path: Path
) -> None:
    fill(small_disk / "filler")
    data = make_data(tmp_path / "data")
    words = (SPACE, "--data", data, *TINY_TUNE, *QUICK, "--set", "architecture=Unet")
    code, text, err = run(*words, "--out", small_disk / "run", cwd=tmp_path)
    assert code == 2, text + err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: No space left on device")
    assert "free some space" in line
    assert "--resume" not in line
    # data that a space brings are written before
    (tmp_path / "own.py").write_text(
        "from search_spaces import BuiltinData, SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(), builtin_data=BuiltinData(sequences=3, frames=1))\n"
    )
    code, text, err = run("own.py", *TINY_TUNE, "--out", small_disk / "own", cwd=tmp_path)
    assert code == 2, text + err
    (line,) = err.strip().splitlines()
    assert "No space left on device" in line


def mended(seconds: float, mend: Callable[[], object]) -> threading.Thread:
    """Mend something after a time."""
    thread = threading.Timer(seconds, mend)
    thread.start()
    return thread


@pytest.mark.parametrize("harm", ["full", "read-only"])
def test_a_save_waits_for_the_disk(
    harm: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real state of torch, which reports a full or read-only disk as another kind of error."""
    import torch

    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.2)
    said: list[str] = []
    attempt = Attempt.begin(small_disk / "trial")
    form = Form[torch.Tensor](".ckpt", ".pt", lambda p, x: torch.save(x, p), torch.load)
    progress = Progress(attempt, form, RunOptions(checkpoint_seconds=0), said.append)
    progress.add(EpochRecord(1, 1.0, 1.0, 0.1, 0.1, 1.0), lambda: torch.zeros(2**20))
    state = torch.arange(4 * 2**20)  # 32 MB
    if harm == "full":
        fill(small_disk / "filler")
        waiting = mended(1.0, (small_disk / "filler").unlink)
    else:
        remount = ["mount", "-o", "remount,ro", str(small_disk)]
        subprocess.run(remount, check=True)
        remount[2] = "remount,rw"
        waiting = mended(1.0, lambda: subprocess.run(remount, check=True))
    began = time.monotonic()
    progress.save_if_due(lambda path: torch.save(state, path))
    waiting.join()
    assert time.monotonic() - began >= 0.9
    first, second = said
    assert "cannot be written" in first
    assert "training waits" in first
    assert "was written after" in second
    found = next(Progress(attempt, form, RunOptions(), print).states())
    assert torch.equal(torch.load(found.path, weights_only=True), state)
    assert not list((small_disk / "trial").glob(".*.tmp"))


def test_nothing_waits_while_the_sweep_is_being_stopped(small_disk: Path) -> None:
    stop = small_disk / "stop"
    stop.touch()
    attempt = Attempt.begin(small_disk / "trial")
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
    options = RunOptions(checkpoint_seconds=0, stop_file=str(stop))
    progress = Progress(attempt, form, options, print)
    progress.add(EpochRecord(1, 1.0, 1.0, 0.1, 0.1, 1.0), lambda: b"x")
    fill(small_disk / "filler")
    with pytest.raises(OSError, match="No space left"):
        progress.save_if_due(lambda path: path.write_bytes(bytes(2**20)))


def test_waiting_ends_when_its_owner_wants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    tries: list[float] = []

    def work() -> int:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left")
        return 7

    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.05)
    waiting = patience.Patience(said.append, who="the sweep")
    assert waiting(tmp_path / "a.csv", work) == 7
    assert waiting.failures == 2
    assert "a.csv cannot be written (No space left: " in said[0]
    assert "the sweep waits and tries again every 0.05 seconds" in said[0]
    assert said[1].endswith("; the sweep continues")
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 600.0)
    tries.clear()
    began = time.monotonic()
    ended = patience.Patience(said.append, stop=lambda: time.monotonic() > began + 0.3)
    with pytest.raises(OSError, match="No space left"):
        ended(tmp_path / "a.csv", work)
    assert time.monotonic() - began < 60
    # an object store has been waited for long enough
    hasty = patience.Patience(said.append, stores=False)

    def ask() -> None:
        raise StoreError(errno.EIO, "no answer")

    with pytest.raises(StoreError):
        hasty(tmp_path / "a.csv", ask)


HOLDER = """
import sys, time
from pathlib import Path
from sweep.runfolder import lock
with lock(Path(sys.argv[1]), print):
    print("locked", flush=True)
    time.sleep(1000)
"""


def test_a_lock_holds_while_its_process_is_stopped_and_not_when_it_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        process.send_signal(signal.SIGSTOP)
        with (
            pytest.raises(RequestError, match=f"process {process.pid} on {os.uname().nodename}"),
            lock(tmp_path / "run", print),
        ):
            raise AssertionError
    finally:
        process.kill()
        process.communicate()
    with lock(tmp_path / "run", lambda text: pytest.fail(text)):
        pass  # what a killed process has left is no lock


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path) -> None:
    """Each kill left a table's copy behind, for ever."""
    old, kept = time.time() - 2 * LEFTOVER_SECONDS, set[Path]()
    for folder in (tmp_path, *(tmp_path / "ledger" / name for name in ("", "history"))):
        folder.mkdir(exist_ok=True)
        for name in (".history.csv.1a2b3c4d.tmp", "history.csv", ".history.csv.5e6f7a8b.tmp"):
            (folder / name).write_text("trial_id,epoch")
            kept.add(folder / name)
        os.utime(folder / ".history.csv.1a2b3c4d.tmp", (old, old))
        kept.remove(folder / ".history.csv.1a2b3c4d.tmp")
    data = tmp_path / ".data.9a8b7c6d.tmp"
    (data / "images").mkdir(parents=True)
    os.utime(data, (old, old))
    with lock(tmp_path, print):
        there = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {*kept, tmp_path / ".lock"}
    assert not data.exists()


def test_a_folder_that_is_held_is_refused(tmp_path: Path) -> None:
    notes: list[str] = []
    with (
        lock(tmp_path / "run", notes.append),
        pytest.raises(
            RequestError, match=f"a sweep is already running there .process {os.getpid()} on "
        ),
        lock(tmp_path / "run", notes.append),
    ):
        raise AssertionError
    with lock(tmp_path / "run", notes.append):
        assert notes == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_storage_without_locks_is_no_running_sweep(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system without locks is to be had here: only the system's answer is scripted."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    notes: list[str] = []
    with lock(tmp_path / "run", notes.append):
        (note,) = notes
    assert os.strerror(number) in note
    assert "make sure that no other sweep runs" in note


def test_what_ray_wraps_is_found_and_said_in_one_line(tmp_path: Path) -> None:
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(tmp_path / "leaderboard.csv"))

    def as_ray_tune_does() -> None:
        try:
            raise stale
        except OSError:
            raise RuntimeError("Traceback ...\n  File ...")  # noqa: B904

    with pytest.raises(RuntimeError) as caught:
        as_ray_tune_does()
    assert storage_error(caught.value) is stale
    line = say_storage_error(stale, tmp_path)
    assert line.startswith("error: Stale file handle")
    assert str(tmp_path / "leaderboard.csv") in line
    assert "mount the folder again" in line
    assert "--resume" not in line, "there is no run to resume"
    (tmp_path / "plan.json").touch()
    assert "--resume" in say_storage_error(stale, tmp_path)
    assert storage_error(ConnectionResetError()) is None
    assert storage_error(ValueError()) is None
