"""Ray dies under the driver, or does not start: a clear line in minutes, and a resumable run."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from sweep.cluster.watch import Watch
from tests.sweep.command_line import QUICK, SPACE, family_of, rows, run, start, wait_for


def test_what_does_not_answer_any_more_is_said(tmp_path: Path) -> None:
    """Real sockets: of a raylet (on this machine) and of a head (host and port)."""
    path = str(tmp_path / "raylet")
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        watch = Watch(path, address, head_seconds=0.2)
        with socket.socket(socket.AF_UNIX) as raylet:
            raylet.bind(path)
            raylet.listen()
            assert [watch.look() for _ in range(3)] == [""] * 3
        assert watch.look() == "", "one connection that came to nothing is no death"
        assert "raylet" in watch.look()
    with socket.socket(socket.AF_UNIX) as raylet:
        Path(path).unlink()
        raylet.bind(path)
        raylet.listen()
        assert watch.look() == "", "the head may be away for a moment"
        time.sleep(0.25)
        assert watch.look() == f"the head of the Ray cluster ({address}) does not answer any more"


def test_a_process_that_is_stopped_is_not_dead(tmp_path: Path) -> None:
    """As after a machine has slept: it listens, but accepts nothing."""
    path = str(tmp_path / "raylet")
    with socket.socket(socket.AF_UNIX) as raylet, socket.create_server(("127.0.0.1", 0)) as head:
        raylet.bind(path)
        raylet.listen(1)
        watch = Watch(path, f"127.0.0.1:{head.getsockname()[1]}")
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(path)
            second.setblocking(False)
            second.connect(path)  # the queue is full now
            assert [watch.look() for _ in range(2)] == ["", ""]


def asked(data: Path, out: Path, *changes: str) -> list[object]:
    """Return a request."""
    known = [SPACE, "--data", data, "--out", out, *QUICK, "--wandb", "off"]
    return [*known, *(word for change in changes for word in ("--set", change))]


def process_of(driver: subprocess.Popen[str], name: str) -> psutil.Process | None:
    return next((one for one in family_of(driver) if one.name() == name), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"), [("raylet", "the raylet"), ("gcs_server", "does not answer any more")]
)
def test_ray_dies(name: str, said: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    request = asked(data, out, "architecture=Unet,FPN", "epochs=20", "checkpoint_seconds=0")
    process = start(*request, cwd=tmp_path)
    wait_for(lambda: list(out.glob("checkpoints/*/resume.json")), process)
    victim, family = process_of(process, name), family_of(process)
    assert victim is not None
    victim.kill()
    began = time.monotonic()
    text, err = process.communicate(timeout=500)
    took = time.monotonic() - began
    assert process.returncode == 1, text + err
    (line,) = [line for line in text.splitlines() if said in line]
    assert line.endswith("run the same command with --resume to continue")
    assert "Traceback" not in text + err
    assert took < 200
    _, left = psutil.wait_procs(family, timeout=200)
    assert not left, "processes stay"
    before = {path.parent.name for path in out.glob("checkpoints/*/resume.json")}
    assert before, "states stay"
    code, text, err = run(*request, "--resume", cwd=tmp_path)
    assert code == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done", "done"]
    assert len(rows(out, "history.csv")) == 2 * 20
    assert len(json.loads((out / "plan.json").read_text())["trials"]) == 2


@pytest.mark.slow
def test_ray_takes_too_long_to_start(data: Path, tmp_path: Path) -> None:
    """Its raylet is stopped when it begins, once: Ray gives up after 30 seconds."""
    out = tmp_path / "run"
    request = asked(data, out, "architecture=Unet", "epochs=1")
    process = start(*request, cwd=tmp_path)
    stopped = threading.Event()

    def first_raylet_stops() -> bool:
        victim = process_of(process, "raylet")
        if victim is not None:
            victim.suspend()
            stopped.set()
        return victim is not None

    wait_for(first_raylet_stops, process)
    text, err = process.communicate(timeout=500)
    assert stopped.is_set()
    assert process.returncode == 0, text + err
    assert [row["status"] for row in rows(out)] == ["done"]
