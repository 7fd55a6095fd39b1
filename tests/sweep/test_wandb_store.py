"""Uploading to W&B what a run in an object store holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.object_store import BUCKET, client, store_environment
from tests.object_store import server as server
from tests.sweep.command_line import rows
from tests.sweep.wandb_server import wandb_server


@pytest.mark.slow
def test_a_run_in_a_store_is_uploaded(server: str, swept: Path, tmp_path: Path) -> None:
    for path in swept.rglob("*"):
        inside = path.relative_to(swept)
        if path.is_file() and inside.parts[0] not in ("tune", "wandb", "tensorboard"):
            client(server).upload_file(str(path), BUCKET, f"runs/online/{inside.as_posix()}")
    with wandb_server() as wandb:
        done = subprocess.run(
            [sys.executable, "-m", "sweep.wandb_upload", "s3://lab/runs/online"],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("WANDB_")},
                **wandb.environment,
                **store_environment(server, tmp_path / "cache"),
                "WANDB_CONFIG_DIR": str(tmp_path / "config"),
            },
            capture_output=True,
            text=True,
            timeout=500,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "5 of 5 ended trials are in W&B" in done.stdout
        assert wandb.wrong == []
        for row in rows(swept):
            if row["status"] == "done":
                epochs = [one for one in wandb.runs[row["wandb_id"]].history if "train_loss" in one]
                assert len(epochs) == int(row["epochs"])
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "config"}
