"""What Optuna draws, and what it remembers when a sweep is killed, resumed or repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces._dimensions import Dimension, dimension
from sweep.ledger import Ledger
from sweep.limits import Limits
from sweep.search.searcher import JOURNAL, STUDY, Draws, open_study
from trainables.config import TrialConfig, with_changes

FEW: dict[str, Dimension] = {"batch_size": [4, 8], "gap": [0, 1]}
MANY: dict[str, Dimension] = {**FEW, "learning_rate": dimension(("loguniform", 1e-4, 1e-2))}


def draws(
    out: Path, dimensions: dict[str, Dimension], most: int, waiting: tuple[str, ...] = ()
) -> Draws:
    study, note = open_study(out, seed=0)
    assert note == ""
    base = TrialConfig().model_dump()
    return Draws(
        study,
        dimensions,
        lambda drawn: with_changes(base, drawn),
        Ledger(out),
        "f",
        waiting,
        most,
        lambda *_: Limits(0.5),
    )


def drawn(made: Draws) -> TrialConfig:
    answer = made.suggest("x")
    assert answer["trial"]["limits"]["gpu"] == 0.5
    return TrialConfig.model_validate(answer["trial"]["config"])


def end(out: Path, config: TrialConfig, iou: float | None, status: Any = "done") -> str:
    name, metrics = config.trial_id("f"), {} if iou is None else {"val_dataset_iou": iou}
    Ledger(out).write(name, config, status, metrics={**metrics, "epochs": 3})
    return name


def kept(out: Path) -> list[optuna.trial.FrozenTrial]:
    """Return what optuna-dashboard would show of OUT/optuna.journal."""
    backend = optuna.storages.journal.JournalFileBackend(str(out / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    trials: list[optuna.trial.FrozenTrial]
    trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    return trials


def test_nothing_is_drawn_twice_and_repeats_take_the_result(tmp_path: Path) -> None:
    made = draws(tmp_path, FEW, 4)
    first = drawn(made)
    others = [drawn(made) for _ in range(3)]
    assert len({first, *others}) == 4, "all at once, none twice"
    assert made.suggest("x") == Searcher.FINISHED
    for number, config in enumerate([first, *others]):
        end(tmp_path, config, 0.1 * (1 + number))
    made.sync()
    trials = kept(tmp_path)
    assert len(trials) > 4, "Optuna has repeated itself"
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    values: dict[str, float] = {}
    for trial in trials:
        assert values.setdefault(str(trial.params), trial.value) == trial.value
        assert trial.user_attrs["trial_id"] in Ledger(tmp_path).read()
    assert sorted(values.values()) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    made = draws(tmp_path, MANY, 5)
    done, stopped, failed, running, waiting = (drawn(made) for _ in range(5))
    end(tmp_path, done, 0.5)
    end(tmp_path, stopped, 0.2, "stopped")
    end(tmp_path, failed, None, "failed")
    Ledger(tmp_path).write_start(running.trial_id("f"), running, "node")
    # killed: nobody has told the study, and one was drawn that has not begun
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    (tmp_path / f"{JOURNAL}.lock").symlink_to(JOURNAL)
    left = 6 - 4  # samples=6, of which four have records
    again = draws(tmp_path, MANY, left, (running.trial_id("f"),))
    assert [drawn(again), drawn(again)] == [running, waiting]
    new = drawn(again)
    assert again.suggest("x") == Searcher.FINISHED
    assert len({done, stopped, failed, running, waiting, new}) == 6
    states = {trial.user_attrs["trial_id"]: trial for trial in kept(tmp_path)}
    assert states[done.trial_id("f")].value == 0.5
    assert states[stopped.trial_id("f")].state == TrialState.PRUNED
    assert states[stopped.trial_id("f")].intermediate_values == {3: 0.2}
    assert states[failed.trial_id("f")].state == TrialState.FAIL
    for config in (running, waiting, new):
        assert states[config.trial_id("f")].state == TrialState.RUNNING
    assert len(states) == len(kept(tmp_path)) == 6


def test_a_draw_whose_record_was_removed_is_trained_again(tmp_path: Path) -> None:
    """Messages promise so; another trial was drawn instead."""
    made = draws(tmp_path, FEW, 2)
    first, second = drawn(made), drawn(made)
    names = [end(tmp_path, first, 0.5), end(tmp_path, second, 0.6)]
    made.sync()
    (tmp_path / "ledger" / f"{names[0]}.json").unlink()
    again = draws(tmp_path, FEW, 1)
    assert drawn(again) == first
    assert again.suggest("x") == Searcher.FINISHED
    end(tmp_path, first, 0.5)
    assert draws(tmp_path, FEW, 0).suggest("x") == Searcher.FINISHED


def test_the_failure_that_is_tried_again_is_not_its_result(tmp_path: Path) -> None:
    failed = drawn(draws(tmp_path, MANY, 1))
    name = end(tmp_path, failed, None, "failed")
    again = draws(tmp_path, MANY, 0, (name,))
    assert drawn(again) == failed
    again.sync()
    assert [trial.state for trial in kept(tmp_path)] == [TrialState.FAIL, TrialState.RUNNING]
    end(tmp_path, failed, 0.75)
    again.sync()
    assert kept(tmp_path)[1].value == 0.75


@pytest.mark.parametrize(
    "content", [None, b'{"op_code":99}\n{"a":1}\n', b"not json\n" * 9, b"1\n2\n", b"[]\n"]
)
def test_a_missing_or_damaged_journal_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    """As in a run folder of an earlier version, which kept none."""
    configs = [TrialConfig(learning_rate=rate) for rate in (1e-3, 2e-3, 3e-3)]
    for number, config in enumerate(configs):
        end(tmp_path, config, 0.1 + number, "stopped" if number == 2 else "done")
    if content is not None:
        (tmp_path / JOURNAL).write_bytes(content)
    study, note = open_study(tmp_path, seed=0)
    assert bool(note) == (content is not None)
    assert draws(tmp_path, MANY, 0).suggest("x") == Searcher.FINISHED
    learnt = sorted((trial.value, trial.params["learning_rate"]) for trial in kept(tmp_path))
    assert learnt == [(0.1, 1e-3), (1.1, 2e-3), (2.1, 3e-3)]
    assert study.study_name == STUDY


def test_values_that_do_not_go_together_are_passed_over(tmp_path: Path) -> None:
    made = draws(tmp_path, {"architecture": ["Unet", "PAN"], "crop_size": [64, 128]}, 3)
    found = {(c.architecture, c.crop_size) for c in (drawn(made) for _ in range(3))}
    assert found == {("Unet", 64), ("Unet", 128), ("PAN", 128)}
    assert {t.state for t in kept(tmp_path)} <= {TrialState.RUNNING, TrialState.FAIL}


def test_another_session_draws_something_else(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    one = drawn(draws(tmp_path / "a", MANY, 1))
    assert drawn(draws(tmp_path / "b", MANY, 1)) == one, "the same seed"
    end(tmp_path / "a", one, 0.5)
    assert drawn(draws(tmp_path / "a", MANY, 1)) != one


def test_a_trial_waits_until_its_needs_are_known(tmp_path: Path) -> None:
    made = draws(tmp_path, MANY, 1)
    answers: list[Limits | None] = [None, None, Limits(0.5)]
    made._allow = lambda *_: answers.pop(0)
    assert [made.suggest("x"), made.suggest("y")] == [None, None]
    assert drawn(made)
    assert len(kept(tmp_path)) == 1


def test_the_first_trials_are_estimated_together(tmp_path: Path) -> None:
    made, asked, known = draws(tmp_path, MANY, 9), [], False

    def allow(trial_id: str, _: TrialConfig) -> Limits | None:
        asked.append(trial_id)
        return Limits(0.5) if known else None

    made._allow, made.ahead = allow, 3
    assert [made.suggest("x"), made.suggest("y")] == [None, None]
    assert len(set(asked)) == 3
    known = True
    end(tmp_path, drawn(made), 0.5)
    assert len({drawn(made) for _ in range(2)}) == 2
    known = False
    assert made.suggest("x") is None
    assert len(set(asked)) == len(kept(tmp_path)) == 4, "from now on each learns from the last"
