from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sweep.detach import LOG
from sweep.heartbeat import last_sign
from tests.sweep.command_line import QUICK, TINY_TUNE, environment, rows, run
from tests.waiting import wait_for

SPACE = (
    "from search_spaces import SearchSpace, grid\n"
    "SPACE = SearchSpace(trials=grid(architecture='Unet'))\n"
)


def test_what_is_refused_at_once_is_refused_here(tmp_path: Path) -> None:
    code, out, err = run("demo", "--detach", "--set", "epochs=x", "--out", "r", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("error: --set epochs: ")
    assert not (tmp_path / "r").exists()
    code, out, err = run("demo", "--detach", "--plan", "--out", "r", cwd=tmp_path)
    assert (code, err) == (2, "error: --detach and --plan: give only one of them\n")


def test_what_is_refused_later_keeps_its_exit_code(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "one.py").write_text(SPACE)
    words = ("one.py", "--data", "data", "--out", "r", "--detach", "--wandb", "off")
    code, out, err = run(*words, cwd=tmp_path)
    assert (code, err) == (2, "")
    assert out.startswith("error: ")
    assert "masks/: no such folder" in out
    # and the folder can be used afterwards
    assert [p.name for p in (tmp_path / "r").iterdir()] == [LOG]
    assert run(*words[:-3], "--plan", "--data", data, *QUICK, cwd=tmp_path)[0] == 0


@pytest.mark.slow
def test_a_detached_sweep_survives_its_terminal(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SPACE)
    words = ["one.py", "--data", str(data), "--out", "r", *QUICK, *TINY_TUNE, "--set", "epochs=20"]
    # a shell that is the leader of a terminal's session, as over ssh
    command = [sys.executable, "-m", "sweep.run", *words, "--detach"]
    shell = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    text, err = shell.communicate(timeout=500)
    assert (shell.returncode, err) == (0, "")
    out = tmp_path / "r"
    sign = last_sign(out)
    assert sign is not None
    driver = psutil.Process(sign.pid)
    try:
        last = text.splitlines()[-4:]
        assert last[0].startswith(f"the sweep runs: process {sign.pid} on {os.uname().nodename}")
        assert last[1].endswith("-m sweep.run --watch r")
        assert last[3].startswith(f"  stop it:      kill -INT {sign.pid} ")
        assert os.getsid(sign.pid) == sign.pid
        assert driver.terminal() is None
        # what the system sends when a terminal is closed goes to the session of the terminal
        with pytest.raises(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGHUP)
        code, watched, _ = run("--watch", "r", cwd=tmp_path)
        assert code == 0
        assert "1 done" in watched or "all results are in" in watched
        (row,) = rows(out)
        assert row["status"] == "done"
        assert "all results are in" in (out / LOG).read_text()
        assert "--detach" not in (out / "plan.json").read_text()
    finally:
        if driver.is_running():
            driver.send_signal(signal.SIGINT)
            driver.wait(120)


@pytest.mark.slow
def test_nohup_survives_a_closed_terminal(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SPACE)
    words = ["one.py", "--data", str(data), "--out", "r", *QUICK, *TINY_TUNE, "--set", "epochs=20"]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "sweep.run", *words],
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    out = tmp_path / "r"
    try:
        for moment in (out / ".lock", out / "plan.json", out / "leaderboard.csv"):
            wait_for(moment.exists, process)
            os.killpg(process.pid, signal.SIGHUP)
        text, _ = process.communicate(timeout=500)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, text
    (row,) = rows(out)
    assert row["status"] == "done"
