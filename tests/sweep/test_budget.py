from __future__ import annotations

import time
from pathlib import Path

import pytest

from sweep.budget import Budget, Caps, Price, read_caps
from sweep.run import main
from tests.sweep.command_line import QUICK, TINY_TUNE, records, rows, run


class Clock:
    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-hours", "0"), "--max-hours 0: must be above 0"),
        (("--max-hours", "nan"), "--max-hours nan: must be above 0"),
        (("--max-hours", "inf"), "--max-hours inf: must be above 0"),
        (("--max-cost", "-1", "--price", "1/gpu"), "--max-cost -1: must be above 0"),
        (("--max-cost", "5"), "--max-cost: needs --price, such as --price 1.21/gpu"),
        (("--price", "1.21"), "--price 1.21: write what one hour costs"),
        (("--price", "1.21/day"), "--price 1.21/day: write what one hour costs"),
        (("--price", "$1/gpu"), "--price $1/gpu: write what one hour costs"),
        (("--price=-1/gpu",), "--price -1/gpu: write what one hour costs"),
    ],
)
def test_wrong_limits_are_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "r")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: {said}")
    assert not (tmp_path / "r").exists()


def test_without_limits_nothing_is_counted() -> None:
    budget = Budget(Caps(), Clock())

    def up(unit: str) -> float:
        raise AssertionError

    assert not budget.look(up)
    assert (budget.why, budget.text(), str(budget.caps)) == ("", "", "")


def test_hours_count_from_the_start_of_the_call() -> None:
    clock = Clock()
    budget = Budget(Caps(hours=0.5), clock)
    clock.time += 1799
    assert not budget.look(lambda unit: 0)
    clock.time += 1
    assert budget.look(lambda unit: 0)
    assert budget.why == "--max-hours 0.5 is over"
    assert not budget.look(lambda unit: 0)  # said once


def test_cost_by_hand() -> None:
    clock = Clock()
    budget = Budget(read_caps(None, 3, "2/gpu"), clock)
    assert str(budget.caps) == ", --max-cost 3"
    up = {"gpu": 1.0}
    assert not budget.look(up.__getitem__)
    clock.time += 5
    up["gpu"] = 100.0  # too early for another count
    assert not budget.look(up.__getitem__)
    clock.time += 1795
    up["gpu"] = 4.0
    assert not budget.look(up.__getitem__)  # one GPU for half an hour
    assert budget.spent == pytest.approx(1)
    clock.time += 900
    assert budget.look(up.__getitem__)  # four for a quarter of an hour
    assert budget.spent == pytest.approx(3)
    assert budget.why == "--max-cost 3 is spent"
    assert budget.text() == "about 3.00 for all that was up, at 2 per GPU-hour"


def test_a_price_alone_limits_nothing() -> None:
    clock = Clock()
    budget = Budget(Caps(price=Price(10.0, "node")), clock)
    budget.look(lambda unit: 2)
    clock.time += 36_000
    assert not budget.look(lambda unit: 2)
    assert budget.spent == pytest.approx(200)


@pytest.mark.slow
def test_a_limited_sweep_is_resumed_with_another_limit(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(architecture='Unet'))\n"
    )
    changes = ("--set", "epochs=100", "--set", "checkpoint_seconds=0")
    words = ("one.py", "--data", data, "--out", "r", *QUICK, *TINY_TUNE, *changes)
    out, began = tmp_path / "r", time.monotonic()
    code, text, err = run(*words, "--max-hours", "0.02", cwd=tmp_path)
    took = time.monotonic() - began
    assert (code, err) == (130, "")
    lines = text.splitlines()
    assert "r: 1 trials, 2 at a time, W&B off, --max-hours 0.02" in lines
    assert (
        "--max-hours 0.02 is over: the sweep ends; trials that run save their state first" in lines
    )
    again = "run the same command with --resume to continue"
    assert lines[-1] == f"--max-hours 0.02 is over; {again}"
    assert 72 < took < 400
    (before,) = records(out)
    assert before["status"] == "running"
    done = [row["epoch"] for row in rows(out, "history.csv")]
    code, text, err = run(
        *words, "--resume", "--max-cost", "1000", "--price", "1/node", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    assert "for all that was up, at 1 per node-hour" in text
    epochs = [row["epoch"] for row in rows(out, "history.csv")]
    assert epochs == [str(number) for number in range(1, 101)]
    assert len(done) < 100
    # it saves after every epoch: nothing of what was reported is trained again
    first = text.splitlines()[0]
    assert first.endswith(f"(epoch {len(done)})") if done else "from their first epoch" in first
