"""plan.json: what is written, what is read back, and which plan continues it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SearchSpace, grid
from sweep.plan import (
    Plan,
    Trial,
    conflict,
    make_plan,
    read_plan,
    with_recorded,
    write_plan,
)
from sweep.precision import Precision
from sweep.request import Request, RequestError, make_request
from sweep.selection import only
from trainables.config import RECIPE, TrialConfig
from trainables.data.dataset import DataSet, Item
from trainables.data.splits import DataOptions

SPACE = SearchSpace(trials=grid({"architecture": ["Unet", "FPN"]}, encoder="resnet18"))
SEARCHED = SearchSpace(
    trials=grid(encoder="resnet18"),
    settings={"search": "optuna", "samples": 3},
    dimensions={"learning_rate": ("loguniform", 1e-4, 1e-2)},
)


def data(fingerprint: str = "f", **more: Any) -> DataSet:
    items = tuple(Item(f"i{n}", Path(f"i{n}.tif"), Path(f"m{n}.tif"), f"g{n}") for n in range(3))
    split = {"train": ("i0",), "val": ("i1",), "test": ("i2",)}
    return DataSet(Path("/data"), items, split, 0.5, fingerprint, **more)


def asked(*changes: str, space: SearchSpace = SPACE) -> Request:
    return make_request("mine", space, changes, None)


def plan_of(*changes: str, space: SearchSpace = SPACE, fingerprint: str = "f") -> Plan:
    return make_plan(asked(*changes, space=space), data(fingerprint))


def names(plan: Plan) -> list[str]:
    return [trial.trial_id for trial in plan.trials]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def written(out: Path, plan: Plan, recorded: dict[str, Any] | None = None) -> dict[str, Any]:
    return write_plan(out, plan, data(plan.fingerprint), "python -m sweep.run mine", recorded)


def test_a_plan_names_its_trials_and_those_left_out() -> None:
    plan = make_plan(only(asked(), ["architecture=FPN"]), data("f"))
    unet, fpn = asked().configs
    assert plan.trials == (Trial(fpn.trial_id("f"), fpn),)
    assert plan.left_out == {unet.trial_id("f")}
    assert (plan.data, plan.fingerprint, plan.precision) == ("/data", "f", None)
    assert plan.key == {"fingerprint": "f"}
    assert not plan.drawn
    assert plan.asks_for(fpn.trial_id("f"))
    assert not plan.asks_for(unet.trial_id("f"))
    assert plan_of().asks_for("any that the folder holds")


def test_a_plan_is_for_the_division_of_its_data() -> None:
    divided = DataOptions(split="time_blocks", gap_frames=3)
    plan = make_plan(asked("split=time_blocks"), data(options=divided))
    assert plan.request.data_options == divided


def test_a_plan_in_a_precision_has_no_auto_left() -> None:
    precision = Precision("bf16", False, "why")
    plan = make_plan(asked(), data(), precision)
    assert {trial.config.precision for trial in plan.trials} == {"bf16"}
    assert plan.precision == precision
    assert not set(names(plan)) & set(names(plan_of()))


def test_a_search_has_no_trials_but_what_it_draws_from() -> None:
    plan = plan_of(space=SEARCHED)
    assert plan.drawn
    assert plan.trials == ()
    (config,) = plan.request.configs
    assert plan.key == {
        "fingerprint": "f",
        "search": "optuna",
        "base": [config.model_dump(mode="json")],
        "dimensions": json.loads(json.dumps(plan.key["dimensions"])),
    }
    assert list(plan.key["dimensions"]) == ["learning_rate"]
    assert plan.samples == 3


@pytest.mark.parametrize(("samples", "expected"), [("1", 1), ("2", 2), ("5", 2)])
def test_no_more_is_drawn_than_there_is(samples: str, expected: int) -> None:
    two = SEARCHED.model_copy(update={"dimensions": {"loss": ["dice", "focal"]}})
    assert plan_of(f"samples={samples}", space=two).samples == expected


def test_what_is_written(out: Path) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    plan = make_plan(asked("retries=7"), data(), Precision("32", True, "old processors"))
    content = write_plan(out, plan, data(notes=("few",)), "python -m sweep.run mine", None)
    assert json.loads((out / "plan.json").read_text()) == content
    assert read_plan(out) == content
    assert content["format"] == 1
    assert content["recipe"] == RECIPE
    assert content["space"] == "mine"
    assert content["key"] == {"fingerprint": "f"}
    assert content["commands"] == ["python -m sweep.run mine"]
    made = datetime.fromisoformat(content["created"])
    assert began <= made <= datetime.now(UTC)
    assert content["created"] == made.isoformat("T", "seconds")
    assert content["settings"] == plan.request.settings.model_dump(mode="json")
    assert content["settings"]["retries"] == 7
    assert content["precision"] == {"auto": "32", "tf32": True, "why": "old processors"}
    assert content["data"] == {
        "path": "/data",
        "fingerprint": "f",
        "options": DataOptions().model_dump(mode="json"),
        "split": {"train": ["i0"], "val": ["i1"], "test": ["i2"]},
        "groups": {"i0": "g0", "i1": "g1", "i2": "g2"},
        "pixel_size_um": 0.5,
        "notes": ["few"],
    }
    assert content["trials"] == [
        {"trial_id": trial.trial_id, "config": trial.config.model_dump(mode="json")}
        for trial in plan.trials
    ]
    assert content["versions"]["python"]
    assert {"git_commit", "run_token", "wandb_group", "folder"} <= content.keys()
    assert written(out, plan_of())["precision"] is None


def test_an_extended_run_keeps_its_trials_commands_and_beginning(out: Path) -> None:
    first = written(out, plan_of())
    first["created"] = "2024-01-01T00:00:00+00:00"
    first["trials"][0]["config"]["what an old version recorded"] = 1
    more = plan_of("architecture=FPN,PAN,Unet")
    content = write_plan(out, more, data(), "python -m sweep.run again", first)
    assert content["commands"] == ["python -m sweep.run mine", "python -m sweep.run again"]
    assert content["created"] == first["created"]
    assert content["run_token"] == first["run_token"]
    old = [one["trial_id"] for one in first["trials"]]
    assert [one["trial_id"] for one in content["trials"]][:2] == old
    assert {one["trial_id"] for one in content["trials"]} == set(names(more))
    assert len(content["trials"]) == 3
    assert content["trials"][0] == first["trials"][0]


def test_a_resumed_plan_takes_up_what_has_not_ended() -> None:
    everything = plan_of()
    unet, fpn = everything.trials
    recorded = {
        "trials": [
            {"trial_id": one.trial_id, "config": one.config.model_dump(mode="json")}
            for one in everything.trials
        ]
    }
    part = replace(everything, trials=(fpn,))
    assert with_recorded(part, recorded, []).trials == (fpn, unet)
    assert with_recorded(part, recorded, [unet.trial_id]).trials == (fpn,)
    assert with_recorded(part, None, []).trials == (fpn,)
    chosen = make_plan(only(asked(), ["architecture=FPN"]), data())
    assert with_recorded(chosen, recorded, []).trials == (fpn,)


def refused(out: Path) -> str:
    with pytest.raises(RequestError) as caught:
        read_plan(out)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(out), "OUT")


def test_a_folder_without_a_plan(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert read_plan(out) is None
    out.mkdir()
    assert read_plan(out) is None
    for name in (".lock", ".nodes", "sweep.log", "weights", "data", ".plan.json.1234.tmp"):
        (out / name).touch()
    assert read_plan(out) is None
    for strange in ("thesis.txt", "x.tmp", ".hidden"):
        (out / strange).touch()
        assert refused(out) == (
            f"--out OUT: this folder is not a run (it contains {strange} but no plan.json); "
            "name another folder"
        )
        (out / strange).unlink()
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == "--out OUT: is a file; name a folder"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "OUT/plan.json has format 2, but this version reads 1; name"),
        ({"format": None}, "OUT/plan.json is damaged: it has no 'format'"),
        ({"key": None}, "OUT/plan.json is damaged: it has no 'key'"),
        ({"key": {}}, "OUT/plan.json is damaged: it has no 'fingerprint'"),
        ({"data": None}, "OUT/plan.json is damaged: it has no 'data'"),
        ({"data": {"options": {}}}, "OUT/plan.json is damaged: it has no 'path'"),
        ({"data": {"path": ""}}, "OUT/plan.json is damaged: it has no 'options'"),
        ({"commands": None}, "OUT/plan.json is damaged: it has no 'commands'"),
        ({"created": None}, "OUT/plan.json is damaged: it has no 'created'"),
        ({"trials": None}, "OUT/plan.json is damaged: it has no 'trials'"),
        ({"trials": [{"config": {"architecture": "x"}}]}, "is damaged: it has no 'trial_id'"),
        ({"trials": [{"trial_id": "x", "config": {}}]}, "is damaged: it has no 'architecture'"),
        ({"trials": [{"trial_id": "x"}]}, "OUT/plan.json is damaged: it has no 'config'"),
        ({"trials": 3}, "OUT/plan.json is damaged: 'int' object is not iterable"),
    ],
)
def test_a_plan_that_lacks_something(out: Path, change: dict[str, Any], expected: str) -> None:
    content = {**written(out, plan_of()), **change}
    content = {k: v for k, v in content.items() if v is not None or k == "precision"}
    (out / "plan.json").write_text(json.dumps(content))
    assert expected in refused(out)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_plan(out: Path, content: bytes) -> None:
    (out / "plan.json").write_bytes(content)
    assert refused(out).startswith("OUT/plan.json is damaged: ")


def recorded_as(plan: Plan, out: Path) -> dict[str, Any]:
    return written(out, plan)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epochs": "many"}, "(epochs: Input should be a valid integer"),
        ({"swag": 1}, "(swag: Extra inputs are not permitted)"),
    ],
)
def test_trials_that_this_version_cannot_read(out: Path, change: dict[str, Any], why: str) -> None:
    """Of a later version, perhaps: --watch and a finished run ended with a traceback."""
    write_plan(out, plan_of(), data(), "command", None)
    content = json.loads((out / "plan.json").read_text())
    content["trials"][1]["config"].update(change)
    (out / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RequestError) as caught:
        read_plan(out)
    said = str(caught.value)
    assert said.startswith(f"{out / 'plan.json'}: this version cannot read trial semantic2-FPN")
    assert why in said
    assert "if a later version wrote it, use that one" in said
    assert "\n" not in said


def test_plans_that_continue_a_run(out: Path) -> None:
    recorded = recorded_as(plan_of(), out)
    assert conflict(plan_of(), recorded) is None
    assert conflict(plan_of("architecture=Unet,FPN,PAN"), recorded) is None, "extended"
    assert conflict(plan_of("architecture=PAN,Unet,FPN", "retries=9"), recorded) is None
    assert conflict(plan_of("architecture=Unet"), recorded) is None, "a part"
    chosen = make_plan(only(asked("architecture=Unet,PAN"), ["architecture=Unet"]), data())
    assert conflict(chosen, recorded) is None, "what --only leaves out need not be there"


def test_plans_that_do_not(out: Path) -> None:
    recorded = recorded_as(plan_of(), out)
    assert conflict(plan_of("architecture=Unet,PAN"), recorded) == (
        "its settings differ (architecture was FPN, now Unet)"
    )
    assert conflict(plan_of("epochs=3"), recorded) == "its settings differ (epochs was 100, now 3)"
    changed = conflict(plan_of("epochs=3", "normalization=dataset"), recorded)
    assert changed == (
        "its settings differ (epochs was 100, now 3, normalization was image, now dataset)"
    )
    assert conflict(plan_of(fingerprint="g"), recorded) == (
        "it used different data (/data), or they have changed since"
    )
    before = {k: v for k, v in recorded.items() if k != "recipe"}
    for content, recipe in ((before, 1), ({**recorded, "recipe": RECIPE + 1}, RECIPE + 1)):
        said = conflict(plan_of(), content)
        assert said == (
            f"its networks were trained with recipe {recipe} of an earlier version (the same crops "
            f"and augmentation in every epoch), but this version uses recipe {RECIPE}"
        )


def test_settings_that_an_old_run_did_not_record_were_the_defaults(out: Path) -> None:
    recorded = recorded_as(plan_of(), out)
    for trial in recorded["trials"]:
        del trial["config"]["lr_schedule"]
    assert conflict(plan_of("epochs=3"), recorded) == "its settings differ (epochs was 100, now 3)"
    assert conflict(plan_of("lr_schedule=constant"), recorded) == (
        "its settings differ (lr_schedule was cosine, now constant)"
    )


def test_searches_that_continue_a_search(out: Path) -> None:
    recorded = recorded_as(plan_of(space=SEARCHED), out)
    assert conflict(plan_of("samples=9", space=SEARCHED), recorded) is None
    assert conflict(plan_of(), recorded) == "it was made with search=optuna"
    other = SEARCHED.model_copy(update={"dimensions": {"loss": ["dice", "focal"]}})
    said = conflict(plan_of(space=other), recorded)
    assert said == "its search draws learning_rate, loss from different values"
    assert conflict(plan_of("epochs=3", space=SEARCHED), recorded) == (
        "its search has different settings"
    )


def test_the_trial_that_a_config_stands_for() -> None:
    config = TrialConfig()
    assert Trial("a", config) != Trial("b", config)
