"""Trials that report nothing any more are ended and tried again."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweep.hanging import FIRST, SLOWEST, Hanging
from tests.sweep.command_line import records, rows, run
from trainables.records import patience


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_by_hand() -> None:
    clock = Clock()
    hanging = Hanging(10.0, clock)
    hanging.begin("a")
    hanging.begin("b")
    clock.now = 10 * FIRST - 1
    assert hanging.look(["a", "b"]) == {}, "nothing is known before the first epoch"
    hanging.hear("a", 1.0)
    clock.now += 1
    assert hanging.look(["b"]) == {"b": 10 * FIRST}
    assert hanging.look(["b"]) == {}, "once is enough"
    hanging.begin("c")
    for _ in range(3):
        clock.now += 0.1
        hanging.hear("c", 0.1)
    clock.now += 9.9
    assert hanging.look(["c"]) == {}
    clock.now += 0.2
    assert hanging.look(["c"]) == {"c": pytest.approx(10.1)}
    # slow epochs
    hanging.begin("d")
    clock.now += 2
    hanging.hear("d", 2.0)
    assert hanging.look(["d"]) == {}
    clock.now += 2 * SLOWEST - 1
    assert hanging.look(["d"]) == {}
    clock.now += 1
    assert hanging.look(["d"]) == {"d": 2 * SLOWEST}
    never = Hanging(0.0, clock)
    never.begin("a")
    clock.now += 1e6
    assert never.look(["a"]) == {}


def test_a_driver_that_was_stopped_itself_ends_nobody() -> None:
    """After Ctrl-Z and fg, or a disk that was away for hours, all running trials were ended."""
    clock = Clock()
    hanging = Hanging(3600.0, clock)
    hanging.begin("a")
    hanging.hear("a", 1.0)
    for _ in range(70):
        clock.now += 50
        assert hanging.look(["a"]) == {}
    clock.now += 7200
    assert hanging.look(["a"]) == {}
    clock.now += 30
    assert hanging.look(["a"]) == {}
    clock.now += 20
    assert list(hanging.look(["a"])) == ["a"], "the time in which nobody looked does not count"


def test_a_trial_that_waits_for_a_full_disk_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was ended, four times, and had then failed for good: all because of a disk on which the
    driver's tables had room, but no checkpoint.
    """
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.01)
    clock, said, tries = Clock(), list[str](), list[int]()
    hanging = Hanging(10.0, clock)
    hanging.begin("a", notes=1)

    def look(notes: list[str]) -> bool:
        for _ in range(7):
            clock.now += 10 * FIRST / 8
            assert hanging.look(["a"]) == {}
        clock.now += 10 * FIRST / 8
        assert list(hanging.look(["a"])) == ["a"]
        return hanging.is_waiting("a", notes)

    def full() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    patience.Patience(said.append)(tmp_path / "weights.pt", full)
    waits, written = said
    assert look(["before", waits])
    assert look(["before", waits]), "as long as it waits"
    assert not look(["before", waits, written])
    hanging.begin("a", notes=2)
    assert not look(["before", waits]), "an earlier attempt waited"
    hanging.begin("a")
    assert not look([])


def test_time_in_which_the_storage_was_away_does_not_count() -> None:
    """No trial can say then that it waits."""
    clock = Clock()
    hanging = Hanging(10.0, clock)
    hanging.begin("a")
    hanging.hear("a", 0.1)
    for _ in range(5):
        clock.now += 9
        hanging.excuse()
        assert hanging.look(["a"]) == {}
    clock.now += 10
    assert list(hanging.look(["a"])) == ["a"]


NETWORK = """
import ctypes
from pathlib import Path
from torch import nn

class Stuck(nn.Conv2d):
    seen = 0
    def forward(self, images):
        if self.training and type(images).__name__ == "Tensor":
            self.seen += 1
            marker = Path({marker!r})
            if self.seen > 8 and not marker.exists():
                marker.touch()
                ctypes.PyDLL(None).sleep(100000)  # holds the interpreter
        return super().forward(images)

def build(encoder, in_channels, classes, encoder_weights=None):
    return Stuck(1, classes, 3, padding=1)
"""


@pytest.mark.slow
def test_a_trial_that_hangs_in_a_library_is_tried_again(data: Path, tmp_path: Path) -> None:
    """Its interpreter is stuck: no thread of its process could notice."""
    out = tmp_path / "run"
    (tmp_path / "stuck.py").write_text(NETWORK.format(marker=str(tmp_path / "marker")))
    (tmp_path / "own.py").write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(architecture='stuck:build', encoder='none',\n"
        "    crop_size=64, batch_size=4, epochs=10))\n"
    )
    words = ["own.py", "--data", data, "--out", out, "--wandb", "off"]
    words += ["--set", "hang_seconds=10", "--set", "checkpoint_seconds=0"]
    code, text, err = run(*words, cwd=tmp_path)
    assert code == 0, text + err
    assert (tmp_path / "marker").exists()
    assert "it hangs, and its worker is ended" in text
    assert [row["status"] for row in rows(out)] == ["done"]
    (record,) = records(out)
    assert len(record["attempts"]) == 2
    assert len(rows(out, "history.csv")) == 10
