"""Ctrl-C, SIGTERM and SIGHUP during and between Ray Tune's runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.tune.tune import _setup_signal_catching

from sweep.interrupts import SIGNALS, Interrupts
from sweep.stopping import Stopping
from trainables.records.stops import EPOCH, STEP, asked


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_ctrl_c_asks_and_the_second_one_does_not_wait() -> None:
    interrupts = Interrupts()
    with interrupts:
        ended = _setup_signal_catching()
        interrupts.watch()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.happened
        assert not ended.is_set()
        assert not interrupts.is_urgent
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts.end()
        assert ended.is_set()
        with pytest.raises(KeyboardInterrupt):  # nor while Tune ends its run
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_leave_trials_some_time(number: signal.Signals) -> None:
    patient, hasty = Interrupts(), Interrupts(seconds=0.0)
    for interrupts in (patient, hasty):
        with interrupts:
            ended = _setup_signal_catching()
            interrupts.watch()
            signal.raise_signal(number)
            signal.raise_signal(number)  # those who end a session may send several
            assert interrupts.happened
            assert not ended.is_set()
    assert not patient.is_urgent
    assert hasty.is_urgent


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        with interrupts:
            _setup_signal_catching()
            interrupts.watch()
            signal.raise_signal(signal.SIGHUP)
        assert not interrupts.happened
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_after_a_run_is_not_swallowed() -> None:
    interrupts = Interrupts()
    with interrupts:
        _setup_signal_catching()
        interrupts.watch()
    assert not interrupts.happened
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("seconds", [1000.0, 0.0])
def test_trials_that_run_are_waited_for_and_no_others(seconds: float, tmp_path: Path) -> None:
    said: list[str] = []
    interrupts = Interrupts(seconds)
    stopping = Stopping(tmp_path, interrupts, said.append)
    _, first = stopping.begin()
    _, file = stopping.begin()
    assert first != file
    with interrupts:
        ended = _setup_signal_catching()
        interrupts.watch()
        stopping.look(["a", "b"])
        assert not Path(file).exists()
        signal.raise_signal(signal.SIGTERM)
        stopping.look(["a", "b"])
        assert Path(file).exists()
        assert ended.is_set() == (seconds == 0)
        (line,) = said
        assert line == "stopping: 2 trials save at their next training step"
        assert asked(file) == STEP
        stopping.look(["b", "c"])  # a has saved; c was begun by Tune, and ends at once
        stopping.look(["c"])
        assert ended.is_set()
        assert len(said) == 1
    stopping.forget()
    assert not list(tmp_path.iterdir())


def test_after_ctrl_c_trials_may_finish_their_epoch_until_they_must_hurry(tmp_path: Path) -> None:
    said: list[str] = []
    interrupts = Interrupts()
    stopping = Stopping(tmp_path, interrupts, said.append)
    _, file = stopping.begin()
    with interrupts:
        _setup_signal_catching()
        interrupts.watch()
        signal.raise_signal(signal.SIGINT)
        stopping.look(["a", "b"])
        assert asked(file) == EPOCH
        stopping.look(["a"])
        signal.raise_signal(signal.SIGHUP)
        stopping.look(["a"])
        assert asked(file) == STEP
        stopping.look(["a"])
    hint = "(to stop at once, press Ctrl-C again)"
    assert said == [
        f"stopping: 2 trials finish their epochs and save {hint}",
        "stopping: 1 trial saves at its next training step",
    ]


def test_where_nothing_runs_the_end_comes_at_once(tmp_path: Path) -> None:
    interrupts = Interrupts()
    stopping = Stopping(tmp_path, interrupts, lambda text: pytest.fail(text))
    stopping.begin()
    with interrupts:
        ended = _setup_signal_catching()
        interrupts.watch()
        signal.raise_signal(signal.SIGINT)
        stopping.look([])
        assert ended.is_set()
