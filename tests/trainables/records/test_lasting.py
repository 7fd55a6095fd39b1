from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trainables.config import RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.records.attempts import Attempt
from trainables.records.lasting import adopt, is_kept
from trainables.records.progress import read_result
from trainables.train import train


def config(**changes: object) -> TrialConfig:
    fixed = {"encoder": "mobilenet_v2", "crop_size": 64, "batch_size": 4}
    return TrialConfig(**{**fixed, "lr_schedule": "constant", "augmentation": "strong", **changes})


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


def figures(result: TrialResult) -> list[tuple[Any, ...]]:
    epochs = [(r.epoch, r.train_loss, r.val_loss, r.val_dataset_iou) for r in result.history]
    return [*epochs, (result.best_epoch, result.test_dataset_iou, result.test_image_iou)]


def test_continued_equals_trained_at_once(dataset: DataSet, tmp_path: Path) -> None:
    keeping = RunOptions(keep_last_state=True)
    short, long = tmp_path / "short", tmp_path / "long"
    before = train(config(epochs=2), dataset, short, options=keeping)
    assert is_kept(short)
    top = {path.name for path in short.iterdir()}
    assert top == {"weights.pt", "checkpoint.json", "result.json", "last"}
    seen: list[int] = []
    result = train(
        config(epochs=4),
        dataset,
        long,
        options=RunOptions(continues=str(short)),
        on_epoch=lambda record: seen.append(record.epoch),
    )
    assert seen == [3, 4]
    assert result.history[:2] == before.history
    assert figures(result) == figures(train(config(epochs=4), dataset, tmp_path / "once"))
    assert not is_kept(long)
    # what it continued is as it was, and answers as before
    assert train(config(epochs=2), dataset, short) == before == read_result(short)
    assert is_kept(short)


def test_nothing_is_kept_unless_asked(dataset: DataSet, tmp_path: Path) -> None:
    train(config(epochs=1), dataset, tmp_path / "t")
    assert not is_kept(tmp_path / "t")
    # and without a state the longer one begins at its first epoch
    seen: list[int] = []
    train(
        config(epochs=2),
        dataset,
        tmp_path / "long",
        options=RunOptions(continues=str(tmp_path / "t")),
        on_epoch=lambda record: seen.append(record.epoch),
    )
    assert seen == [1, 2]


def test_a_state_of_its_own_comes_first(tmp_path: Path) -> None:
    source, own = tmp_path / "source", Attempt.begin(tmp_path / "own")
    (source / "last").mkdir(parents=True)
    (source / "last" / "resume.json").write_text('{"files": {"a.pt": {}}, "states": []}')
    (source / "last" / "a.pt").write_text("a")
    assert adopt(source, own)
    assert (own.folder / "a.pt").read_text() == "a"
    (source / "last" / "a.pt").write_text("b")
    assert not adopt(source, own)
    assert (own.folder / "a.pt").read_text() == "a"


class KilledError(BaseException):
    """What takes the place of a kill here."""


WRITES = (
    "weights.pt",
    "checkpoint.json",
    "resume-00001.ckpt",
    "best-00001.pt",
    "resume.json",
    "result.json",
)
"""What is put in place after the last epoch, in this order."""


@pytest.mark.parametrize("last", ["resume-00001.ckpt", "resume.json", "result.json"])
def test_an_attempt_that_is_killed_at_the_end_is_repeated(
    last: str, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the result was written and before the last state was put aside, a trial lost
    that state, and longer ones were trained from their first epoch.
    """
    keeping, folder = RunOptions(keep_last_state=True), tmp_path / "t"
    put, written = os.replace, list[str]()

    def replace(source: Path, target: Path) -> None:
        put(source, target)
        if (folder / "weights.pt").exists():  # all epochs are over
            written.append(target.name)
            if target.name == last:
                raise KilledError

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KilledError):
        train(config(epochs=1), dataset, folder, options=keeping)
    monkeypatch.undo()
    assert set(written) == set(WRITES[: WRITES.index(last) + 1])
    train(config(epochs=1), dataset, folder, options=keeping)
    assert is_kept(folder)
    kept = {"best-00001.pt", "resume-00001.ckpt", "resume.json"}
    assert {path.name for path in (folder / "last").iterdir()} == kept
    top = {path.name for path in folder.iterdir()}
    # the token of an attempt that wrote its result is removed by whoever records that
    assert top - {"attempt.json"} == {"weights.pt", "checkpoint.json", "result.json", "last"}
