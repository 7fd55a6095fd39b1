"""Ctrl-C during and between Ray Tune's runs."""

from __future__ import annotations

import signal

import pytest
from ray.tune.tune import _setup_signal_catching

from sweep.interrupts import Interrupts


def test_ctrl_c_during_a_run_is_noticed_and_still_ends_it() -> None:
    interrupts = Interrupts()
    with interrupts:
        ended = _setup_signal_catching()
        interrupts.watch()
        signal.raise_signal(signal.SIGINT)
        assert ended.is_set()
        with pytest.raises(KeyboardInterrupt):  # the second one does not wait for Tune
            signal.raise_signal(signal.SIGINT)
    assert interrupts.happened


def test_ctrl_c_after_a_run_is_not_swallowed() -> None:
    interrupts = Interrupts()
    with interrupts:
        _setup_signal_catching()
        interrupts.watch()
    assert not interrupts.happened
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
