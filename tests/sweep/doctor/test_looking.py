"""Looking at GPUs, processes, servers and folders, and how what is found is put together."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from sweep.doctor.findings import Finding, note, ok, problem, together, within
from sweep.doctor.folders import look_at_data, look_at_disk, look_at_out
from sweep.doctor.machine import CHILD_SECONDS, GpuFacts, ask, gpus_here, why_unreachable
from tests.sweep.command_line import make_data


def states(findings: list[Finding]) -> list[str]:
    return [one.state for one in findings]


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncase $1 in\n*memory*) echo 'NVIDIA A100, SXM4, 40960, 1024, 550.54.15'\n"
        "echo 'NVIDIA GB10, [N/A], [N/A], 580.1';;\n*) echo 8.0; echo 12.1;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus_here() == [
        GpuFacts("NVIDIA A100, SXM4", 40.0, 1.0, "550.54.15", True),
        GpuFacts("NVIDIA GB10", 0.0, 0.0, "580.1", True),
    ]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpus_here() == []


def test_processes_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No module named 'not_there'" in ask("import not_there").error
    assert ask("import os; os._exit(3)").error == "its process ended with 3"
    assert ask("import os; os.abort()").error
    monkeypatch.setattr("sweep.doctor.machine.CHILD_SECONDS", 0.2)
    assert "no response within" in ask("import time; time.sleep(60)").error
    assert CHILD_SECONDS > 1


def test_servers_that_do_not_answer(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    assert why_unreachable(server) == ""
    assert why_unreachable("http://127.0.0.1:1") == "Connection refused"
    assert why_unreachable("nonsense")
    monkeypatch.setattr("sweep.doctor.machine.REACH_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (missing,) = look_at_data(str(tmp_path / "none"))[0]
    assert (missing.state, "no such folder" in missing.detail) == ("problem", True)
    data = make_data(tmp_path / "data")
    findings, dataset = look_at_data(str(data), seconds=0.0)
    assert dataset is None
    assert (states(findings), "10 files" in findings[0].detail) == (["note"], True)
    for stem in range(4):
        (data / "masks" / f"i{stem}.tif").unlink()
    monkeypatch.setattr("sweep.doctor.folders.MOST_LINES", 2)
    findings, _ = look_at_data(str(data))
    assert states(findings) == ["problem"] * len(findings)
    assert "more problems" in findings[-1].detail
    assert states(look_at_out(data)) == ["problem", "ok"], "not a run folder"
    monkeypatch.setattr("sweep.doctor.folders.LEAST_GB", 1e9)
    assert states(look_at_disk(tmp_path / "no" / "no")) == ["problem"]


def test_a_folder_whose_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = threading.Event()  # none can be had here
    monkeypatch.setattr("sweep.doctor.folders.read_plan", lambda out: server.wait(60))
    monkeypatch.setattr("sweep.doctor.folders.STORAGE_SECONDS", 0.1)
    (silent,) = look_at_out(tmp_path)
    server.set()
    assert (silent.state, "no response" in silent.detail) == ("problem", True)


def test_what_is_found_on_many_nodes_is_one_line() -> None:
    a, b = ok("gpu", "none", "a"), ok("gpu", "none", "b")
    assert [one.where for one in together([[a], [b]])] == ["all 2 nodes"]
    c = [problem("gpu", "none", "buy", "c"), note("ray", "old", "", "c")]
    lines = together([[a, ok("ray", "new", "a")], [b, ok("ray", "new", "b")], c])
    assert [(one.what, one.where) for one in lines] == [
        ("gpu", "a, b"),
        ("gpu", "c"),
        ("ray", "a, b"),
        ("ray", "c"),
    ]


def test_within_gives_up_and_passes_errors_on() -> None:
    never = threading.Event()
    assert within(0.05, never.wait) is None
    never.set()
    assert within(5.0, lambda: 1) == 1
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 / 0)
