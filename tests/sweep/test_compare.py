"""What a user's own images are sent to, and what is said of too few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.request import load_space
from sweep.run import main
from trainables.config import ARCHITECTURES


def test_compare_tries_every_architecture_and_every_way_of_making_cells() -> None:
    _, space = load_space("compare")
    assert space.builtin_data is None
    trials = space.trials
    two = [trial for trial in trials if trial.task == "semantic2"]
    assert [trial.architecture for trial in two] == list(ARCHITECTURES)
    assert {trial.encoder for trial in two} == {"resnet34"}
    assert [t.architecture for t in trials if t.task == "semantic3"] == ["Unet", "UnetPlusPlus"]
    assert [t.architecture for t in trials if t.task == "stardist"] == ["StarDist", "Unet"]
    # candidates differ in what the leaderboard shows
    assert {(t.crop_size, t.epochs, t.batch_size, t.augmentation) for t in trials} == {
        (224, 60, 8, "medium")
    }


@pytest.mark.parametrize(("validating", "said"), [(5, True), (6, False)])
def test_plan_says_that_too_few_groups_give_no_answer(
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    validating: int,
    said: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("images", "masks"):
        (mine / name).symlink_to(cells / name)
    stems = [f"i{number:02d}" for number in range(18)]
    split = {"train": stems[:6], "val": stems[6 : 6 + validating], "test": stems[12:]}
    lines = [f"  {name}: [{', '.join(members)}]" for name, members in split.items()]
    (mine / "dataset.yaml").write_text("\n".join(["split:", *lines]) + "\n")
    words = ["--only", "architecture=Unet", "task=semantic2", "--wandb", "off"]
    assert main(["compare", "--data", str(mine), "--plan", *words]) == 0
    text = capsys.readouterr().out
    assert "semantic2-Unet-resnet34-s0-" in text
    assert ("note: validation has 5 independent groups, fewer than 6: " in text) == said
