from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainables.records.files import write_json, write_text, write_with


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_failing_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def break_off(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise error

    with pytest.raises(error):
        write_with(path, break_off)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_makes_folders_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, None]}


def test_a_full_disk_is_said_whatever_the_library_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected_position(temporary: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0")

    monkeypatch.setattr("trainables.records.files.ALMOST_NOTHING", 2**62)
    with pytest.raises(OSError, match="No space left on the disk"):
        write_with(tmp_path / "weights.pt", unexpected_position)
    assert not list(tmp_path.iterdir())
