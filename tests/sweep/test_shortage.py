"""Trials that run out of memory: tried again with more, failed alone, and left for ``--resume``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.sweep.command_line import SPACE, TINY_TUNE, records, rows, run, start, wait_for


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_out_of_memory_is_tried_again_larger_and_then_fails_alone(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "short"
    code, text, err = run(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "encoder=mobilenet_v2,vgg19",
        "--set",
        "epochs=1",
        "--set",
        "crop_size=64",
        "--set",
        "batch_size=4",
        "--set",
        "memory_per_trial=0.2",
        "--set",
        "most_memory_per_trial=0.4",
        cwd=tmp_path,
    )
    assert code == 1, text + err
    small, large = rows(out)
    assert (small["encoder"], small["status"]) == ("mobilenet_v2", "done")
    assert (large["encoder"], large["status"]) == ("vgg19", "failed")
    assert "out of memory" in large["error"]
    assert "micro-batches of 2" in large["error"]
    told = {
        r["config"]["encoder"]: r["out_of_memory"] for r in records(out) if "out_of_memory" in r
    }
    assert len(told["mobilenet_v2"]) >= 1, "the limit was not felt"
    assert "will be tried again with" in text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_ctrl_c_leaves_trials_that_ran_out_of_memory_for_resume(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "short"
    process = start(
        SPACE,
        "--data",
        data,
        "--out",
        out,
        *TINY_TUNE,
        "--set",
        "architecture=Linknet",
        "--set",
        "encoder=mobilenet_v2",
        "--seeds",
        "2",
        "--set",
        "epochs=2",
        "--set",
        "crop_size=64",
        "--set",
        "batch_size=4",
        "--set",
        "concurrency=1",
        "--set",
        "memory_per_trial=0.2",
        "--set",
        "most_memory_per_trial=0.4",
        cwd=tmp_path,
    )
    # once the second trial has begun, the sweep knows what became of the first
    wait_for(lambda: len(records(out)) == 2 and any(r.get("retry") for r in records(out)), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=500)
    assert process.returncode == 130, text + err
    assert "--resume" in text + err
    (short, *_) = [r for r in records(out) if r.get("retry")]
    assert (short["status"], len(short["attempts"])) == ("running", 1)
    assert "will be tried again with" in text
