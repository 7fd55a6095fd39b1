from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sweep.view import TrialState, View, duration, time_left


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def state(number: int, **fields: object) -> TrialState:
    return TrialState(f"t{number}", f"Unet resnet18 s{number}", epochs=10, **fields)  # type: ignore[arg-type]


def test_nothing_is_estimated_before_the_first_epoch() -> None:
    assert time_left([state(0, status="running"), state(1)], 2) is None


def test_time_left_by_hand() -> None:
    running = state(0, status="running", epoch=5, epochs_here=5, seconds=10.0)
    # 2 s per epoch: 10 s left of this one, 20 s of each of two that wait, on two slots
    assert time_left([running, state(1), state(2)], 2) == pytest.approx(25)
    # alone, the longest running trial counts
    assert time_left([running], 4) == pytest.approx(10)
    assert time_left([state(0, status="done", epoch=10, epochs_here=10, seconds=9.0)], 2) == 0


def test_plain_lines_without_a_terminal() -> None:
    screen = io.StringIO()
    view = View(Console(file=screen, width=100), "demo: 2 trials", 2)
    one, two = state(0), state(1)
    with view:
        view.update([one, two])
        one.status = two.status = "running"
        view.update([one, two])
        view.update([one, two])
        one.status, one.val_dataset_iou, one.seconds = "done", 0.91234, 61
        two.status, two.error = "failed", "no such encoder [x]"
        view.update([one, two])
    lines = screen.getvalue().splitlines()
    assert lines[0] == "demo: 2 trials"
    assert len(lines) == 5
    assert lines[1].endswith("start    Unet resnet18 s0")
    assert "done" in lines[3]
    assert "val IoU 0.9123  1:01" in lines[3]
    assert "no such encoder [x]" in lines[4]


def test_live_view_fits_a_terminal_with_many_trials() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=20, force_terminal=True)
    states = [state(n, status="done", epoch=10, val_dataset_iou=0.5) for n in range(1000)]
    with View(console, "many", 2) as view:
        view.update(states)
        for _ in range(50):
            view.update(states)  # throttled
        rendered = console.render_lines(view._render(states))
    assert len(rendered) <= 20
    assert "and 986 more" in screen.getvalue()


def test_quiet_screen_catches_descriptors_and_restores_them(tmp_path: Path) -> None:
    code = """
import os, sys, subprocess
from pathlib import Path
from sweep.screen import quiet_screen
try:
    with quiet_screen(Path(sys.argv[1])) as screen:
        print("python noise"); os.write(1, b"c noise\\n"); os.write(2, b"c error\\n")
        subprocess.run(["echo", "child noise"])
        screen.print("for the user")
        raise KeyError("out")
except KeyError:
    print("after")
"""
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True)
    assert done.stdout == "for the user\nafter\n"
    assert done.stderr == ""
    for noise in ("python noise", "c noise", "c error", "child noise"):
        assert noise in log.read_text()
