"""The file that asks trials to stop, and how often they look for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.records import stops
from trainables.records.stops import EPOCH, STEP, Looks, ask, asked


class Clock:
    """Time that passes when a test says so, and when a trial looks at the file."""

    def __init__(self) -> None:
        self.now, self.cost, self.looks = 0.0, 0.0, 0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    def look(stop_file: str | None) -> str:
        made.looks += 1
        made.now += made.cost
        return asked(stop_file)

    monkeypatch.setattr(stops, "time", made)
    monkeypatch.setattr(stops, "asked", look)
    return made


@pytest.mark.parametrize("write", [lambda path: ask(path, EPOCH), Path.touch])
def test_what_asks_only_for_a_stop_asks_for_the_end_of_the_epoch(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    file = tmp_path / "stop"
    assert asked(None) == asked(str(file)) == asked(str(tmp_path / "no folder" / "stop")) == ""
    write(file)
    assert asked(str(file)) == EPOCH
    looks = Looks(str(file))
    assert (looks.at_step(), looks.at_epoch()) == (False, True)


def test_what_asks_for_the_next_step_asks_for_all(tmp_path: Path) -> None:
    ask(tmp_path / "stop", STEP)
    looks = Looks(str(tmp_path / "stop"))
    assert (looks.at_step(), looks.at_epoch()) == (True, True)
    assert not Looks(None).at_step()
    assert not Looks(None).at_epoch()


def test_steps_look_once_a_second_and_epochs_always(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "stop"
    looks = Looks(str(file))
    for _ in range(1000):
        assert not looks.at_step()
    assert clock.looks == 1
    ask(file, STEP)
    clock.now = stops.LOOK_SECONDS - 0.01
    assert not looks.at_step()
    clock.now = stops.LOOK_SECONDS
    assert looks.at_step()
    assert clock.looks == 2
    file.unlink()  # what was asked for is not forgotten
    clock.now += 100
    assert looks.at_step()

    looks, clock.looks = Looks(str(file)), 0
    for _ in range(10):
        assert not looks.at_epoch()
    assert clock.looks == 10


def test_whoever_may_finish_the_epoch_can_still_be_hurried(clock: Clock, tmp_path: Path) -> None:
    looks = Looks(str(tmp_path / "stop"))
    ask(tmp_path / "stop", EPOCH)
    assert not looks.at_step()
    ask(tmp_path / "stop", STEP)
    clock.now += stops.LOOK_SECONDS
    assert looks.at_step()


def test_a_slow_disk_is_looked_at_rarely(clock: Clock, tmp_path: Path) -> None:
    looks, clock.cost = Looks(str(tmp_path / "stop")), 0.5
    while clock.now < 100:
        looks.at_step()
        clock.now += 0.25
    assert 8 <= clock.looks <= 10, "every ten seconds"


def test_a_disk_that_is_away_asks_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert asked(str(tmp_path / "file" / "stop")) == ""
    (tmp_path / "stop").mkdir()
    assert asked(str(tmp_path / "stop")) == ""
