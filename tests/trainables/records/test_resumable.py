"""Saved states that are damaged or missing, and two attempts at one trial at a time.

Training, files and processes are real.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.errors import Paused, Superseded
from trainables.records.attempts import Attempt
from trainables.records.resumable import Form, Progress
from trainables.train import train

OFTEN = RunOptions(checkpoint_seconds=0)
CONFIG = TrialConfig(encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=3)


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def calm(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return train(CONFIG, dataset, tmp_path_factory.mktemp("calm"))


def figures(result: TrialResult) -> list[tuple[Any, ...]]:
    epochs = [(r.epoch, r.train_loss, r.val_loss, r.val_dataset_iou) for r in result.history]
    return [*epochs, (result.best_epoch, result.test_dataset_iou, result.test_image_iou)]


@pytest.fixture(scope="module")
def broken_off(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "t"

    def stop(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise Cut

    with pytest.raises(Cut):
        train(CONFIG, dataset, folder, options=OFTEN, on_epoch=stop)
    return folder


@pytest.fixture
def cut(broken_off: Path, tmp_path: Path) -> Path:
    """Folder of a trial that was broken off after epoch 2 of 3, each epoch having been saved."""
    return shutil.copytree(broken_off, tmp_path / "t")


def go_on(folder: Path, dataset: DataSet) -> tuple[TrialResult, list[int], list[str]]:
    """Train to the end; return the result, the epochs trained, and what was said."""
    seen: list[int] = []
    notes: list[str] = []
    result = train(
        CONFIG, dataset, folder, on_epoch=lambda r: seen.append(r.epoch), on_note=notes.append
    )
    left = {path.name for path in folder.iterdir()}
    assert left == {"weights.pt", "checkpoint.json", "result.json"}
    return result, seen, notes


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def taken(folder: Path) -> tuple[int | None, list[str]]:
    """Return the epoch of the saved state that is taken, and what is said."""
    notes: list[str] = []
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
    progress = Progress(Attempt.begin(folder), form, RunOptions(), notes.append)
    state = next(progress.states(), None)
    return None if state is None else state.epoch, notes


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
def test_damage_is_noticed(harm: Callable[[Path], None], cut: Path) -> None:
    assert taken(cut) == (2, [])
    harm(cut / "resume-00002.ckpt")
    epoch, (note,) = taken(cut)
    assert epoch == 1
    assert "resume-00002.ckpt" in note


def test_a_damaged_state_gives_way_to_the_one_before(
    cut: Path, calm: TrialResult, dataset: DataSet
) -> None:
    truncate(cut / "resume-00002.ckpt")
    result, seen, notes = go_on(cut, dataset)
    assert seen == [2, 3]
    assert figures(result) == figures(calm)
    (note,) = notes
    assert "resume-00002.ckpt" in note
    assert "epoch 1" in note


def test_damaged_best_weights_do_so_too(cut: Path) -> None:
    content = json.loads((cut / "resume.json").read_text())
    newest, older = (state["best"] for state in content["states"])
    truncate(cut / newest)
    epoch, (note,) = taken(cut)
    assert epoch == (1 if newest != older else None)
    assert newest in note


def test_without_a_usable_state_a_trial_starts_anew_and_says_so(
    cut: Path, calm: TrialResult, dataset: DataSet
) -> None:
    truncate(cut / "resume-00002.ckpt")
    (cut / "resume-00001.ckpt").unlink()
    result, seen, notes = go_on(cut, dataset)
    assert seen == [1, 2, 3]
    assert figures(result) == figures(calm)
    (note,) = notes
    for part in ("resume-00002.ckpt", "resume-00001.ckpt is missing", "starts again at epoch 1"):
        assert part in note


def test_so_it_does_when_nothing_names_the_states(cut: Path) -> None:
    (cut / "resume.json").unlink()
    epoch, (note,) = taken(cut)
    assert epoch is None
    assert "resume.json, which names the files, is missing" in note


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"states": [{}]}', '{"states": 1}'])
def test_or_what_names_them_is_damaged(content: str, cut: Path) -> None:
    (cut / "resume.json").write_text(content)
    epoch, (note,) = taken(cut)
    assert epoch is None
    assert "resume.json is damaged" in note
    assert "starts again at epoch 1" in note


def make_old(folder: Path) -> None:
    """Leave in a folder what versions before this protocol wrote: one state, without checksums."""
    import torch

    content = json.loads((folder / "resume.json").read_text())
    state = content["states"][0]
    path = folder / state["state"]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"] = {"_EpochEnd": {"history": content["history"]}}
    torch.save(checkpoint, path)
    old = {"state": state["state"], "best": state["best"], "epoch": state["epoch"]}
    (folder / "resume.json").write_text(json.dumps(old))


def test_folders_of_earlier_versions_resume(cut: Path, calm: TrialResult, dataset: DataSet) -> None:
    make_old(cut)
    result, seen, notes = go_on(cut, dataset)
    assert (seen, notes) == ([3], [])
    assert figures(result) == figures(calm)


@pytest.mark.parametrize("harm", [truncate, flip])
def test_damaged_folders_of_earlier_versions_start_anew(
    harm: Callable[[Path], None], cut: Path
) -> None:
    make_old(cut)
    harm(cut / "resume-00002.ckpt")
    epoch, (note,) = taken(cut)
    assert epoch is None
    assert "resume-00002.ckpt is damaged" in note


def test_a_state_that_is_whole_but_does_not_fit_is_no_dead_end(
    cut: Path, calm: TrialResult, dataset: DataSet
) -> None:
    import torch

    from trainables.records.manifest import sha256_of

    path = cut / "resume-00002.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"]["renamed"] = checkpoint["state_dict"].pop(name)
    torch.save(checkpoint, path)
    content = json.loads((cut / "resume.json").read_text())
    content["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (cut / "resume.json").write_text(json.dumps(content))
    result, seen, notes = go_on(cut, dataset)
    assert seen == [2, 3]
    assert figures(result) == figures(calm)
    assert "renamed" in notes[0] or name in notes[0]


TRAIN = """
import sys
from pathlib import Path
from trainables.config import RunOptions, TrialConfig
from trainables.data.dataset import open_dataset
from trainables.train import train

def on_epoch(record):
    print(record.epoch, flush=True)
    sys.stdin.readline()

config = TrialConfig.model_validate_json(sys.argv[3])
options = RunOptions(checkpoint_seconds=0)
train(config, open_dataset(Path(sys.argv[1])), Path(sys.argv[2]), options=options,
      on_epoch=on_epoch)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_older_attempt_writes_nothing_once_another_has_begun(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    folder = tmp_path / "t"
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(dataset.root), str(folder), CONFIG.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as older:
        assert older.stdout is not None
        assert older.stdin is not None
        assert older.stdout.readline() == "1\n"
        older.send_signal(signal.SIGSTOP)  # its node is cut off, it lives

        def stop(record: EpochRecord) -> None:
            if record.epoch == 2:
                raise Cut

        with pytest.raises(Cut):  # the second attempt is under way when the first wakes up
            train(CONFIG, dataset, folder, options=OFTEN, on_epoch=stop)
        before = contents(folder)
        older.send_signal(signal.SIGCONT)
        out, err = older.communicate("\n" * 9, timeout=500)
    assert older.returncode != 0
    assert "another attempt" in err.strip().splitlines()[-1]
    assert out == "", "it reported an epoch"
    assert contents(folder) == before
    result = train(CONFIG, dataset, folder, options=OFTEN)
    assert figures(result) == figures(calm)


def test_an_older_attempt_does_not_touch_a_finished_trial(dataset: DataSet, tmp_path: Path) -> None:
    folder = tmp_path / "t"

    def overtaken(record: EpochRecord) -> None:
        if record.epoch == 1:
            train(CONFIG, dataset, folder)

    with pytest.raises(Superseded, match="another attempt"):
        train(CONFIG, dataset, folder, options=OFTEN, on_epoch=overtaken)
    assert {p.name for p in folder.iterdir()} == {"weights.pt", "checkpoint.json", "result.json"}


def test_what_a_killed_attempt_left_half_written_goes(cut: Path, dataset: DataSet) -> None:
    (cut / ".resume-00003.ckpt.0123abcd.tmp").write_bytes(b"half")
    _, seen, notes = go_on(cut, dataset)  # looks at what is left
    assert (seen, notes) == ([3], [])


@pytest.fixture
def ended(calm: TrialResult, tmp_path: Path) -> Path:
    """Folder of a trial that has ended."""
    return shutil.copytree(calm.checkpoint, tmp_path / "ended")


@pytest.mark.parametrize(("name", "harm"), [("result.json", truncate), ("weights.pt", Path.unlink)])
def test_a_damaged_result_or_a_lost_checkpoint_is_no_dead_end(
    name: str, harm: Callable[[Path], None], ended: Path, calm: TrialResult, dataset: DataSet
) -> None:
    harm(ended / name)
    result, seen, notes = go_on(ended, dataset)
    assert seen == [1, 2, 3]
    assert figures(result) == figures(calm)
    (note,) = notes
    assert name in note
    assert "trained again" in note


def test_states_go_that_were_left_by_who_was_killed_after_the_result(
    ended: Path, cut: Path, calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    for path in [*cut.glob("resume*"), *cut.glob("best-*")]:
        shutil.copy(path, ended)
    result, seen, notes = go_on(ended, dataset)  # looks at what is left
    assert (figures(result), seen, notes) == (figures(calm), [], [])


def test_saving_takes_a_twentieth_of_the_time(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch as pl

    # 0, as in the other tests here: after every epoch, whatever it costs
    saved: list[int] = []
    real, clock, later = pl.Trainer.save_checkpoint, time.monotonic, 0.0

    def slow(self: pl.Trainer, path: Path, **options: Any) -> None:
        nonlocal later
        saved.append(self.current_epoch + 1)
        real(self, path, **options)
        later += 100.0

    monkeypatch.setattr("trainables.records.resumable.time.monotonic", lambda: clock() + later)
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", slow)
    train(CONFIG, dataset, tmp_path / "t", options=RunOptions(checkpoint_seconds=1e-3))
    assert saved == [1], "the next is due after twenty times what a save takes"


def test_a_state_is_saved_and_training_stops_when_that_is_asked_for(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
    options = RunOptions(checkpoint_seconds=600, stop_file=str(stop))
    progress = Progress(Attempt.begin(tmp_path / "trial"), form, options, print)
    for epoch in (1, 2):
        progress.add(EpochRecord(epoch, 1.0, 1.0, epoch / 10, epoch / 10, 1.0), bytes)
        progress.save_if_due(lambda path: path.write_bytes(b"x"))
        progress.stop_if_asked()
    assert taken(tmp_path / "trial")[0] is None, "no state was due"
    stop.touch()
    progress = Progress(Attempt.begin(tmp_path / "trial"), form, options, print)
    progress.add(EpochRecord(1, 1.0, 1.0, 0.1, 0.1, 1.0), bytes)
    progress.save_if_due(lambda path: path.write_bytes(b"x"))
    with pytest.raises(Paused):
        progress.stop_if_asked()
    assert taken(tmp_path / "trial") == (1, [])


def test_an_attempt_that_was_stopped_while_it_saved_removes_nothing_of_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the states of the next attempt for its own old ones."""

    def begun(epoch: int) -> Progress[bytes]:
        form = Form[bytes](".ckpt", ".pt", Path.write_bytes, Path.read_bytes)
        progress = Progress(Attempt.begin(tmp_path), form, OFTEN, print)
        progress.add(EpochRecord(epoch, 1.0, 1.0, 0.5, 0.5, 1.0), lambda: b"best")
        return progress

    def save(progress: Progress[bytes]) -> None:
        progress.save(lambda path: path.write_bytes(b"state"))

    old, write_json = begun(2), Attempt.write_json

    def stopped(attempt: Attempt, path: Path, value: Any) -> None:
        write_json(attempt, path, value)
        if attempt is old.attempt:
            save(begun(7))

    monkeypatch.setattr(Attempt, "write_json", stopped)
    with pytest.raises(Superseded):
        save(old)
    left = {path.name for path in tmp_path.iterdir()} - {"attempt.json", "resume.json"}
    assert left >= {"best-00007.pt", "resume-00007.ckpt"}
    assert json.loads((tmp_path / "resume.json").read_text())["states"][0]["epoch"] == 7
