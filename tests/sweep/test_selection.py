"""``--only``: what it leaves out is not run, and does not refuse the request either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from search_spaces import SearchSpace, grid, override
from sweep.plan import Plan, conflict, make_plan, write_plan
from sweep.request import RequestError, make_request
from sweep.run import main
from sweep.selection import is_left_out, only
from tests.sweep.command_line import SPACE, TINY_TUNE, rows, run
from tests.sweep.test_plan_file import data as listed

SMALL = ("--set", "crop_size=64", "--set", "epochs=1", "--set", "batch_size=4")
NETWORKS = SearchSpace(trials=grid({"architecture": ["Unet", "PAN", "FPN"]}, encoder="resnet18"))


def chosen(filters: list[str], *changes: str) -> list[str]:
    request = make_request("m", NETWORKS, changes, None, lambda v: is_left_out(filters, v))
    return [f"{one.architecture} {one.crop_size}" for one in only(request, filters).configs]


def test_a_trial_that_is_left_out_may_be_invalid() -> None:
    assert chosen(["architecture=Unet"], "crop_size=64") == ["Unet 64"]
    assert chosen(["architecture=u-net,fpn"], "crop_size=64") == ["Unet 64", "FPN 64"]
    assert chosen(["crop_size=224"], "crop_size=64,224") == ["Unet 224", "PAN 224", "FPN 224"]
    assert chosen(["architecture=FPN"], "architecture=pan,fpn", "crop_size=64") == ["FPN 64"]
    assert chosen(["seed=1.0", "architecture=Unet"], "seed=1", "crop_size=64") == ["Unet 64"]


@pytest.mark.parametrize(
    "filters",
    [["architecture=PAN"], ["architecture=Unet,pan"], ["crop_size=64"], ["encoder=resnet18"]],
)
def test_a_trial_that_is_asked_for_may_not(filters: list[str]) -> None:
    with pytest.raises(RequestError, match="PAN needs crop_size of at least 128, not 64"):
        chosen(filters, "crop_size=64")


def test_a_value_that_is_wrong_for_all_trials_is_refused() -> None:
    with pytest.raises(RequestError, match="--set crop_size: Input should be a multiple of 32"):
        chosen(["architecture=Unet"], "crop_size=65")
    with pytest.raises(RequestError, match="--set crop_size: Input should be a multiple of 32"):
        chosen(["architecture=NoSuch"], "crop_size=65")
    with pytest.raises(RequestError, match="NoSuch: no trial of this space has this value; choose"):
        chosen(["architecture=NoSuch"], "crop_size=64")
    with pytest.raises(RequestError, match="did you mean architecture"):
        chosen(["architectur=Unet"], "crop_size=64")
    with pytest.raises(ValidationError):
        override(NETWORKS.trials, {"crop_size": [64]})


def test_normalization_is_compared_by_its_mode() -> None:
    values = NETWORKS.trials[0].model_dump()
    assert not is_left_out(["normalization=image"], values)
    assert is_left_out(["normalization=dataset"], values)
    assert not is_left_out(["normalization=dataset"], {**values, "normalization": "dataset"})
    del values["loss"]
    assert not is_left_out(["loss=focal"], values), "its task has not decided it yet"


def test_other_parts_of_the_grid_continue_the_run(tmp_path: Path) -> None:
    def plan(filters: list[str], *changes: str) -> Plan:
        request = make_request("m", NETWORKS, changes, None, lambda v: is_left_out(filters, v))
        return make_plan(only(request, filters), listed())

    first = plan(["architecture=Unet"], "crop_size=64")
    recorded = write_plan(tmp_path, first, listed(), "command", None)
    assert [one["config"]["architecture"] for one in recorded["trials"]] == ["Unet"]
    assert conflict(plan(["architecture=FPN"], "crop_size=64"), recorded) is None
    assert conflict(plan([], "crop_size=64", "architecture=Unet,FPN"), recorded) is None
    assert conflict(plan([]), recorded) == "its settings differ (crop_size was 64, now 224)"


def test_the_command_line_plans_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(SPACE), "--data", str(data), *SMALL, "--plan"]
    assert main([*words, "--only", "architecture=Unet"]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "semantic2-Unet-" in text
    assert "PAN" not in text
    assert main(words) == 2
    assert capsys.readouterr().err == "error: --set PAN needs crop_size of at least 128, not 64\n"


@pytest.mark.slow
def test_parts_of_a_grid_of_which_one_is_not_valid(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words: list[object] = [SPACE, "--data", data, "--out", out, *SMALL, *TINY_TUNE]
    words += ["--set", "encoder=mobilenet_v2"]
    for name, networks in (("Unet", ["Unet"]), ("FPN", ["FPN", "Unet"])):
        code, text, err = run(*words, "--only", f"architecture={name}", cwd=tmp_path)
        assert code == 0, text + err
        assert sorted(row["architecture"] for row in rows(out)) == networks
        assert {row["status"] for row in rows(out)} == {"done"}
    before = (out / "plan.json").read_bytes()
    code, text, err = run(*words, cwd=tmp_path)
    assert code == 2, "PAN is asked for"
    assert "PAN needs crop_size" in err
    code, text, err = run(*words, "--set", "architecture=Unet,FPN", cwd=tmp_path)
    assert code == 0, text + err
    assert "nothing to do: all trials of this run have ended" in text
    assert (out / "plan.json").read_bytes() == before
    assert len(json.loads(before)["trials"]) == 2
