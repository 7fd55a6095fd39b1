"""What becomes of a request on the run folder that it names: looked at, nothing is started."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweep.ledger import Ledger
from sweep.plan import Plan, write_plan
from sweep.request import RequestError
from sweep.run import main, parser
from sweep.session import Decision, Session, decide, list_data, plan_on, prepare
from tests.sweep.command_line import QUICK, SPACE
from trainables.data.dataset import index_dataset

TWO = ("--set", "architecture=Unet,FPN")
SEARCH = ("--set", "search=optuna", "--set", "learning_rate=0.001,0.003,0.01", "--set", "samples=2")


class Folder:
    """A run folder, and requests that name it."""

    def __init__(self, out: Path, data: Path) -> None:
        self.out, self.data = out, data

    def words(self, *more: str) -> list[str]:
        known = [str(SPACE), "--data", str(self.data), "--out", str(self.out), "--wandb", "off"]
        return [*known, *QUICK, *more]

    def ask(self, *more: str) -> tuple[Session, Plan]:
        session = prepare(parser().parse_args(self.words(*more)))
        return session, plan_on(session, list_data(session, self.data))

    def decide(self, *more: str) -> Decision:
        return decide(*self.ask(*more))

    def record(self, *states: str, request: tuple[str, ...] = TWO) -> list[str]:
        """Write what a sweep leaves behind whose trials have come to given states."""
        _, plan = self.ask(*request)
        self.out.mkdir()
        write_plan(self.out, plan, index_dataset(self.data), "python -m sweep.run", None)
        for trial, state in zip(plan.trials, states):
            Ledger(self.out).write(trial.trial_id, trial.config, state)  # type: ignore[arg-type]
        return [trial.trial_id for trial in plan.trials]


@pytest.fixture
def folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Folder(tmp_path / "run", data)


def test_a_new_folder_is_started(folder: Folder) -> None:
    session, plan = folder.ask(*TWO)
    found = decide(session, plan)
    assert found == Decision("start", tuple(trial.trial_id for trial in plan.trials))
    assert len(found.trials) == 2
    assert session.recorded is None
    assert not folder.out.exists()


def test_a_finished_run_is_answered(folder: Folder) -> None:
    unet, fpn = folder.record("done", "done")
    ended = {unet: "done", fpn: "done"}
    assert folder.decide(*TWO) == Decision("answer", ended=ended)
    assert folder.decide(*TWO, "--resume") == Decision("answer", ended=ended)
    # a part of the grid asks for nothing new
    assert folder.decide("--set", "architecture=FPN").action == "answer"


def test_failed_trials_run_again_with_resume_only(folder: Folder) -> None:
    unet, fpn = folder.record("done", "failed")
    assert folder.decide(*TWO).action == "answer"
    assert folder.decide(*TWO, "--resume") == Decision("resume", (fpn,), ended={unet: "done"})


def test_an_extended_request_runs_what_is_new(folder: Folder) -> None:
    unet, fpn = folder.record("done", "failed")
    session, plan = folder.ask("--set", "architecture=Unet,FPN,Linknet")
    (new,) = {trial.trial_id for trial in plan.trials} - {unet, fpn}
    assert decide(session, plan) == Decision("extend", (new,), ended={unet: "done", fpn: "failed"})


def test_an_unfinished_run_needs_resume(folder: Folder) -> None:
    unet, fpn = folder.record("done", "running")
    found = folder.decide(*TWO)
    assert (found.action, found.trials, found.ended) == ("unfinished", (fpn,), {unet: "done"})
    assert f"{folder.out} contains an unfinished run (1 of 2 trials have not ended)" in found.reason
    assert "--resume" in found.reason
    assert folder.decide(*TWO, "--resume") == Decision("resume", (fpn,), ended={unet: "done"})
    # what --only leaves out asks for nothing
    assert folder.decide(*TWO, "--only", "architecture=Unet").action == "answer"
    # an extended request waits, too
    three = ("--set", "architecture=Unet,FPN,Linknet")
    assert folder.decide(*three).action == "unfinished"
    assert len(folder.decide(*three, "--resume").trials) == 2


def test_more_epochs_are_further_trials(folder: Folder) -> None:
    unet, fpn = folder.record("done", "failed")
    session, plan = folder.ask(*TWO, "--set", "epochs=9")
    new = tuple(trial.trial_id for trial in plan.trials)
    assert decide(session, plan) == Decision("extend", new, ended={unet: "done", fpn: "failed"})
    assert not {unet, fpn} & {*new}
    # and nothing else may differ
    assert folder.decide(*TWO, "--set", "epochs=9", "--set", "loss=focal").action == "refuse"


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_run_of_another_plan_is_refused(folder: Folder, more: tuple[str, ...]) -> None:
    folder.record("done", "running")
    found = folder.decide(*TWO, "--set", "epochs=3", *more)
    assert (found.action, found.trials) == ("refuse", ())
    assert f"{folder.out} contains another run" in found.reason
    first, second = found.reason.splitlines()
    assert "(epochs was 5, now 3)" in first
    assert "--out" in first
    assert second == "  epochs: 5 in plan.json, 3 in this command"


def test_a_run_on_other_data_is_refused(folder: Folder, tmp_path: Path) -> None:
    folder.record("done", "done")
    shutil.copytree(folder.data, tmp_path / "more")
    mask = tmp_path / "more" / "masks" / "i0.tif"
    shutil.copy(mask.with_name("i1.tif"), mask)
    found = Folder(folder.out, tmp_path / "more").decide(*TWO)
    assert found.action == "refuse"
    assert str(folder.data) in found.reason


def test_a_run_of_an_earlier_recipe_is_refused(folder: Folder) -> None:
    folder.record("done", "done")
    plan = json.loads((folder.out / "plan.json").read_text())
    assert plan.pop("recipe") == 2
    (folder.out / "plan.json").write_text(json.dumps(plan))
    found = folder.decide(*TWO, "--resume")
    assert found.action == "refuse"
    assert "recipe 1" in found.reason
    assert "name another folder" in found.reason


def test_a_search_draws_what_is_left(folder: Folder) -> None:
    one = ("--set", "architecture=Unet", *SEARCH)
    assert folder.decide(*one) == Decision("start", samples=2)
    _, plan = folder.ask(*one)
    folder.record(request=one)
    (config,) = plan.request.configs
    trial_id = config.trial_id(plan.fingerprint)
    Ledger(folder.out).write(trial_id, config, "done")
    assert folder.decide(*one) == Decision("extend", samples=1, ended={trial_id: "done"})
    assert folder.decide(*one, "--set", "samples=1").action == "answer"
    Ledger(folder.out).write("drawn", config, "running")
    assert folder.decide(*one).action == "unfinished"
    assert folder.decide(*one, "--resume").trials == ("drawn",)


@pytest.mark.parametrize("more", [[], ["--plan"], ["--resume"]])
def test_a_folder_that_is_no_run_is_refused(
    folder: Folder, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder.out.mkdir()
    (folder.out / "thesis.txt").write_text("precious")
    with pytest.raises(RequestError, match=r"not a run \(it contains thesis.txt"):
        folder.ask(*TWO, *more)
    assert main(folder.words(*TWO, *more)) == 2
    assert "not a run" in capsys.readouterr().err
    assert [path.name for path in folder.out.iterdir()] == ["thesis.txt"]


def test_there_is_nothing_to_resume(folder: Folder) -> None:
    with pytest.raises(RequestError, match="there is no run in"):
        folder.ask(*TWO, "--resume")


def test_a_batch_file_starts_a_run_or_continues_it(folder: Folder) -> None:
    again = (*TWO, "--start-or-resume")
    assert folder.decide(*again).action == "start"
    folder.record("done", "running")
    decision = folder.decide(*again)
    assert (decision.action, len(decision.trials)) == ("resume", 1)
    # a folder without a plan, such as where storage is not mounted
    (folder.out / "plan.json").unlink()
    with pytest.raises(RequestError, match="not a run"):
        folder.ask(*again)


def test_the_command_line_does_what_was_decided(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.record("done", "running")
    assert main(folder.words(*TWO)) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {folder.decide(*TWO).reason}\n")
    assert main(folder.words(*TWO, "--set", "epochs=3", "--plan")) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {folder.decide(*TWO, '--set', 'epochs=3').reason}\n")
