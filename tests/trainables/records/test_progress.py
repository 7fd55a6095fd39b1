"""The epochs of a trial so far, and its result, as they lie in its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from trainables.config import EpochRecord, ImageCounts, TrialResult
from trainables.records.files import write_json
from trainables.records.progress import History, ended_before, forget_states, read_result


def epoch(number: int, iou: float | None) -> EpochRecord:
    return EpochRecord(number, 0.5 / number, iou, iou, iou, 2.0)


def history(*ious: float | None) -> History:
    made = History()
    for number, iou in enumerate(ious, 1):
        made.append(epoch(number, iou))
    return made


def test_the_best_epoch_is_the_first_of_the_largest() -> None:
    made = History()
    assert made.best is None
    better = [
        made.append(epoch(n, iou)) for n, iou in enumerate([None, 0.0, 0.5, None, 0.5, 0.4, 0.6], 1)
    ]
    assert better == [False, True, True, False, False, False, True]
    assert made.best == epoch(7, 0.6)
    assert history(0.5, 0.5).best == epoch(1, 0.5)
    assert history(None).best is None
    assert history(0.0, 0.0).best == epoch(1, 0.0)
    assert history(0.0, 1e-9).best == epoch(2, 1e-9)


def test_patience_counts_validations_since_the_best() -> None:
    assert not history(0.5, 0.4, 0.4).patience_is_over(None)
    assert not history(None, None).patience_is_over(1)
    assert not history(0.5).patience_is_over(1)
    assert history(0.5, 0.4).patience_is_over(1)
    assert not history(0.5, 0.4).patience_is_over(2)
    assert not history(0.5, None, 0.4, None).patience_is_over(2), "not all epochs are validated"
    assert history(0.5, None, 0.4, None, 0.3).patience_is_over(2)
    assert not history(0.4, 0.3, 0.5, 0.4).patience_is_over(2), "before the best, none counts"


def test_rows_give_the_history_back() -> None:
    made = history(0.3, 0.5, None)
    assert made.rows()[0] == {
        "epoch": 1,
        "train_loss": 0.5,
        "val_loss": 0.3,
        "val_dataset_iou": 0.3,
        "val_image_iou": 0.3,
        "seconds": 2.0,
        "val_background_iou": None,
        "val_cell_iou": None,
        "val_boundary_iou": None,
    }
    again = History()
    again.restore(made.rows())
    assert again.records == made.records
    assert again.best == made.best


RESULT = TrialResult(
    best_epoch=2,
    epochs=3,
    val_dataset_iou=0.5,
    val_image_iou=0.6,
    test_dataset_iou=0.4,
    test_image_iou=0.3,
    parameters_m=1.5,
    train_seconds=6.0,
    peak_memory_mb=100.0,
    checkpoint="",
    history=tuple(history(0.3, 0.5, None).records),
    micro_batch=2,
    per_image=(ImageCounts("val", "i0", "g", 3, 4), ImageCounts("test", "i1", "h", 5, 6)),
)


def left(folder: Path, result: TrialResult = RESULT, **changes: object) -> Path:
    """Write what a trial leaves that has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**vars(result), **changes}
    content["history"] = [one.to_dict() for one in result.history]
    content["per_image"] = [vars(one) for one in result.per_image]
    write_json(folder / "result.json", content)
    return folder


def test_a_result_comes_back_with_the_folder_it_lies_in(tmp_path: Path) -> None:
    folder = left(tmp_path / "moved", checkpoint="/elsewhere")
    said: list[str] = []
    found = read_result(folder, said.append)
    assert found == TrialResult(**{**vars(RESULT), "checkpoint": str(folder)})
    assert said == []


def test_a_result_of_a_version_that_counted_no_images(tmp_path: Path) -> None:
    folder = left(tmp_path / "t")
    content = json.loads((folder / "result.json").read_text())
    del content["per_image"]
    write_json(folder / "result.json", content)
    found = read_result(folder)
    assert found is not None
    assert found.per_image == ()
    assert found.history == RESULT.history


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "'str' object"),
        ("{}", "'history'"),
        ('{"history": [{}]}', "missing"),
        ('{"history": []}', "missing"),
        ('{"history": 3}', "iterable"),
    ],
)
def test_a_damaged_result_is_none_and_says_so(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "result.json").write_text(text)
    said: list[str] = []
    assert read_result(tmp_path, said.append) is None
    (line,) = said
    assert line.startswith("result.json is damaged (")
    assert reason in line
    assert line.endswith("): the trial is trained again")
    assert "\n" not in line
    assert read_result(tmp_path) is None, "nobody to tell"


def test_no_result_needs_no_word(tmp_path: Path) -> None:
    said: list[str] = []
    assert read_result(tmp_path, said.append) is None
    assert ended_before(tmp_path, said.append) is None
    assert said == []


def test_only_saved_states_are_forgotten(tmp_path: Path) -> None:
    states = ["resume.json", "resume-00003.ckpt", "best-00002.pt"]
    kept = ["result.json", "weights.pt", "checkpoint.json", "attempt.json"]
    for name in (*states, *kept):
        (tmp_path / name).touch()
    forget_states(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    forget_states(tmp_path)


def test_a_result_counts_with_its_checkpoint_only(tmp_path: Path) -> None:
    folder, said = left(tmp_path / "t"), list[str]()
    (folder / "resume-00003.ckpt").touch()
    assert ended_before(folder, said.append) is None
    assert said == ["checkpoint.json is missing: the trial is trained again"]
    manifest = {
        "format": 1,
        "weights": {"file": "weights.pt", "sha256": "a"},
        "config": {},
        "input": {"mean": 0, "std": 1},
    }
    write_json(folder / "checkpoint.json", manifest)
    assert ended_before(folder, said.append) is None
    assert said[1:] == ["weights.pt is missing: the trial is trained again"]
    assert (folder / "resume-00003.ckpt").exists(), "what training would continue from stays"
    (folder / "weights.pt").touch()
    # another attempt, which was killed before it wrote its own checkpoint.json, or a bad disk
    assert ended_before(folder, said.append) is None
    assert said[2:] == [
        "weights.pt is damaged, or not of this checkpoint.json: the trial is trained again"
    ]
    manifest["weights"] = {"file": "weights.pt", "sha256": hashlib.sha256(b"").hexdigest()}
    write_json(folder / "checkpoint.json", manifest)
    found = ended_before(folder, said.append)
    assert found is not None
    assert found.checkpoint == str(folder)
    assert not (folder / "resume-00003.ckpt").exists()
    assert len(said) == 3
    (folder / "checkpoint.json").write_text("{")
    assert ended_before(folder, said.append) is None
    assert said[-1] == "checkpoint.json is damaged: the trial is trained again"
    (folder / "result.json").write_text("{")
    assert ended_before(folder, said.append) is None
    assert said[-1].startswith("result.json is damaged")
