from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.view import TrialState, View, duration, print_leaderboard, time_left


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def state(number: int, **fields: Any) -> TrialState:
    return TrialState(
        f"t{number}", f"U-Net, ResNet-18, 2-class, seed {number}", epochs=10, **fields
    )


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
    assert lines[1].endswith("start    U-Net, ResNet-18, 2-class, seed 0")
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


@pytest.mark.parametrize("width", [80, 120])
def test_live_view_keeps_figures_beside_failures(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=12, force_terminal=True)
    network = "DeepLabV3+, ResNeXt-101 32x32d, 3-class, seed 0"
    states = [
        TrialState("t", network, "running", 12, 1000, 0.75, 0.125, 700),
    ]
    states += [state(n, status="failed", error="out of memory [x] " * 9) for n in range(9)]
    lines = [
        "".join(part.text for part in line).rstrip()
        for line in console.render_lines(View(console, "demo " * 50, 2)._render(states))
    ]
    assert len(lines) <= 12
    assert max(map(len, lines)) <= width
    name = "DeepLabV3+, ResNeXt-…, 3-class, seed 0"
    assert lines[2].startswith(name if width == 80 else name.replace("-…,", "-101 32x32d,"))
    assert lines[2].split()[-5:] == ["running", "12/1000", "0.1250", "0.7500", "11:40"]
    assert sum(line.startswith("failed: U-Net, ResNet-18") for line in lines) == 3


def test_epochs_count_where_those_of_this_run_are_not_told() -> None:
    # 10 s for 5 epochs, 5 left
    assert time_left([state(0, status="running", epoch=5, seconds=10.0)], 1) == pytest.approx(10)


def test_messages_are_not_markup() -> None:
    screen = io.StringIO()
    with View(Console(file=screen, width=40), "demo", 1) as view:
        view.message("[red]as it is[/red] " + "long " * 20)
    assert screen.getvalue().splitlines()[1].startswith("[red]as it is[/red] long")
    assert len(screen.getvalue().splitlines()) == 2


def test_heartbeat_at_most_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sweep.view.time.monotonic", lambda: now)
    screen = io.StringIO()
    states = [state(0, status="running", epoch=2, epochs_here=2, seconds=20.0), state(1)]
    with View(Console(file=screen, width=100), "demo", 1) as view:
        for _ in range(200):
            view.update(states)
            now += 1.0
    _, start, *beats = screen.getvalue().splitlines()
    assert start.startswith("[0:00] start")
    assert beats == [
        f"{minute}:00  0 done, 1 running, 1 waiting, about 3:00 left" for minute in (1, 2, 3)
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_updates_of_1000_trials_are_cheap(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most updates write nothing: a terminal is drawn four times a second, at its height."""
    now = 100.0
    monkeypatch.setattr("sweep.view.time.monotonic", lambda: now)
    states = [state(n, status="done", epoch=10, val_dataset_iou=0.5) for n in range(1000)]
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=24, force_terminal=terminal)
    written = []
    with View(console, "many", 2) as view:
        view.update(states)
        for _ in range(256):  # in two seconds
            now += 1 / 128
            before = screen.tell()
            view.update(states)
            written.append(screen.getvalue()[before:])
    drawn = [text for text in written if text]
    assert len(drawn) == (8 if terminal else 0)
    assert all(text.count("\n") < 24 for text in drawn)


def test_live_view_ends_in_one_line() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=20, force_terminal=True)
    with View(console, "demo", 2) as view:
        view.update([state(0, status="done", epoch=10, train_loss=0.125), state(1, error="x[y]")])
    last = screen.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert "demo: 0:00  1 done, 1 waiting" in last
    assert "0.1250" in screen.getvalue()


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "trial_id": f"trial-{number}",
        "task": "semantic2",
        "architecture": "DeepLabV3Plus",
        "encoder": "resnext101_32x32d",
        "seed": number,
        "status": "done",
        "val_dataset_iou": 0.9 - number / 100,
        "test_dataset_iou": 0.8,
        "epochs": 1000,
        "train_seconds": 40000.0,
        "parameters_m": 468.5,
        "error": "",
        **fields,
    }


def printed(rows: list[dict[str, Any]], **options: Any) -> list[str]:
    screen = io.StringIO()
    print_leaderboard(Console(file=screen, width=80, soft_wrap=True), rows, **options)
    return screen.getvalue().splitlines()


def test_leaderboard_fits_80_columns_with_whole_figures() -> None:
    none = dict.fromkeys(("val_dataset_iou", "test_dataset_iou", "epochs", "train_seconds"))
    lines = printed(
        [
            row(0, task="semantic3"),
            row(1, encoder="resnet18"),
            row(2, status="waiting", **none),
            row(3, status="failed", error="[Errno 28] " + "no space left " * 8, **none),
        ]
    )
    # long names take two lines
    above, header, first, _, second, waiting, _, failed = lines
    assert above.split() == ["val", "test", "M"]
    assert header.split() == ["network", "seed", "IoU", "IoU", "epochs", "time", "params"]
    assert all(len(line) <= 80 for line in lines[:-1])
    for number, line in enumerate((first, second)):
        assert line.split()[0] == str(number + 1)
        assert line.split()[-5:] == [
            f"{0.9 - number / 100:.4f}",
            "0.8000",
            "1000",
            "11:06:40",
            "468.5",
        ]
    assert "waiting" in waiting
    assert failed.startswith("failed: trial-3: [Errno 28] no space left no space")


def test_leaderboard_names_only_what_differs_and_stops_at_the_top() -> None:
    rows = [row(0, seed=0), row(1, seed=0), row(2, seed=0)]
    _, *lines = printed(rows, top=2)
    assert lines[0].split()[:2] == ["network", "IoU"]
    assert len(lines) == 4
    assert lines[-1] == "... and 1 more in leaderboard.csv"
    assert printed([]) == []
