"""Which addresses of a cluster a program on this machine can join."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.machine import addresses
from trainables.machine.addresses import OutsideError, check_node

ELSEWHERE = "192.0.2.1:6379"
"""An address that nobody has; only its name counts here."""


def processes(folder: Path, *names: str) -> Path:
    """Give a /proc in which processes of these names run."""
    for number, name in enumerate(names, 1):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "comm").write_text(f"{name}\n")
    (folder / "self").mkdir(parents=True)
    return folder


def test_only_nodes_can_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "PROCESSES", processes(tmp_path / "a", "bash", "python"))
    with pytest.raises(OutsideError, match="this machine is not one of its nodes") as caught:
        check_node(ELSEWHERE)
    assert ELSEWHERE in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(addresses, "PROCESSES", processes(tmp_path / "b", "bash", "raylet"))
    check_node(ELSEWHERE)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:6379", "localhost:1", "auto", "ray://192.0.2.1:10001"]
)
def test_this_machine_and_what_ray_resolves_are_left_to_ray(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PROCESSES", processes(tmp_path, "bash"))
    check_node(address)


def test_without_a_list_of_processes_ray_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "PROCESSES", tmp_path / "none")
    check_node(ELSEWHERE)
