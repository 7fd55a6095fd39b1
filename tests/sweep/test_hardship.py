"""A real sweep where descriptors and shared memory are short, that sleeps, or that is moved."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.sweep.command_line import (
    QUICK,
    SPACE,
    STARTED,
    environment,
    family_of,
    rows,
    run,
    start,
    wait_for,
)

pytestmark = pytest.mark.slow


def asked(data: Path, out: Path, *changes: str) -> list[object]:
    """Return a request."""
    known = [SPACE, "--data", data, "--out", out, *QUICK, "--wandb", "off"]
    return [*known, *(word for change in changes for word in ("--set", change))]


def begun(out: Path) -> bool:
    return (out / "history.csv").exists() and len(rows(out, "history.csv")) >= 2


def test_256_descriptors_and_64_mb_of_shared_memory(data: Path, tmp_path: Path) -> None:
    out, shared = tmp_path / "run", "mount -t tmpfs -o size=64m none /dev/shm"
    probe = subprocess.run(["unshare", "-m", "sh", "-c", shared], capture_output=True)
    if sys.platform != "linux" or probe.returncode:
        pytest.skip("no disk may be mounted here")
    words = [sys.executable, "-m", "sweep.run", *map(str, asked(data, out, "epochs=3"))]
    words += ["--set", "architecture=Unet,FPN"]
    script = f"{shared} && ulimit -n 256 && exec {shlex.join(words)}"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    STARTED.append(process)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done", "done"]


def test_a_machine_that_sleeps_for_three_minutes(data: Path, tmp_path: Path) -> None:
    """All processes are stopped, which is what they notice of it."""
    out = tmp_path / "run"
    process = start(*asked(data, out, "architecture=Unet", "epochs=12"), cwd=tmp_path)
    wait_for(lambda: begun(out), process)
    all_of_it = [psutil.Process(process.pid), *family_of(process)]
    for one in all_of_it:
        one.suspend()
    time.sleep(180)
    for one in reversed(all_of_it):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.resume()
    text, err = process.communicate(timeout=500)
    if process.returncode == 1:  # Ray may have given its own node up: said, and resumable
        assert "--resume" in text + err
        code, text, err = run(
            *asked(data, out, "architecture=Unet", "epochs=12"), "--resume", cwd=tmp_path
        )
        assert code == 0, text + err
    else:
        assert process.returncode == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done"]
    assert len(rows(out, "history.csv")) == 12


def test_a_run_folder_is_moved_before_it_is_resumed(data: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tmp_path / "else" / "where"
    process = start(*asked(data, out, "architecture=Unet", "epochs=20"), cwd=tmp_path)
    wait_for(lambda: begun(out), process)
    process.send_signal(signal.SIGTERM)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 130, text + err
    other.parent.mkdir()
    out.rename(other)
    request = asked(data, other, "architecture=Unet", "epochs=20")
    code, text, err = run(*request, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert "continued from their saved states" in text
    (row,) = rows(other)
    assert row["status"] == "done"
    assert (other / row["checkpoint"] / "checkpoint.json").is_file()
    assert not out.exists()
