from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_spaces import COMMON_DIMENSIONS, SearchSpace, grid, override
from sweep.leaderboard import IOUS, candidates, paper_correlation, rank, trial_row, write_tables
from sweep.ledger import Ledger
from sweep.plan import read_plan
from sweep.request import Request, RequestError, SweepSettings, load_space, make_request
from sweep.resources import Resources, check_limits, growing, parse_gpus, slots
from sweep.run import main
from sweep.tracking import wandb_mode
from sweep.trial import config_of
from trainables.config import ARCHITECTURES, TrialConfig

SPACE = SearchSpace(trials=grid({"architecture": ["Unet", "FPN"]}, encoder="resnet18"))


def request(*changes: str, seeds: int | None = None) -> Request:
    return make_request("mine", SPACE, changes, seeds)


def test_builtin_spaces() -> None:
    _, demo = load_space("demo")
    assert [t.architecture for t in demo.trials[:8]] == list(ARCHITECTURES)
    others = [(t.task, t.architecture) for t in demo.trials[8:]]
    assert others == [("semantic3", "Unet"), ("stardist", "StarDist"), ("stardist", "Unet")]
    _, paper = load_space("paper")
    assert len(set(paper.trials)) == 40
    assert {t.epochs for t in paper.trials} == {1000}
    assert {t.loss for t in paper.trials} == {"dice"}
    assert {t.early_stopping for t in paper.trials} == {None}


def test_own_space_by_path(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    path.write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid({'seed': [1, 2]}))"
    )
    name, space = load_space(str(path))
    assert name == "my"
    assert [t.seed for t in space.trials] == [1, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must define SPACE"),
        ("1/0", "ZeroDivisionError"),
        ("exit('no\\nmore')", "SystemExit: no more"),
        ("x = (", "SyntaxError"),
        ("from search_spaces import grid\ngrid(epoch=1)", "epoch: Extra inputs"),
    ],
)
def test_bad_own_space(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "my.py").write_text(text)
    with pytest.raises(RequestError, match=expected) as caught:
        load_space(str(tmp_path / "my.py"))
    assert len(str(caught.value).splitlines()) == 1


def test_seeds_given_twice_are_refused() -> None:
    with pytest.raises(RequestError, match="--seeds 2 and --set seed: give only one of them"):
        request("seed=5", seeds=2)


def test_a_spaces_own_settings_are_named_as_such() -> None:
    for wrong, said in (({"schedular": "asha"}, "schedular: Extra"), ({"samples": 0}, "samples: ")):
        space = SPACE.model_copy(update={"settings": wrong})
        with pytest.raises(RequestError, match=f"^search space mine: settings: {said}"):
            make_request("mine", space, [], None)


def test_set_spans_grids_and_seeds_multiply() -> None:
    configs = request("encoder=vgg19,resnet34", "epochs=7", seeds=3).configs
    assert len(configs) == 2 * 2 * 3
    assert {c.epochs for c in configs} == {7}
    # replacing an axis does not double what becomes equal
    assert len(request("architecture=PAN").configs) == 1


def test_numbers_of_few() -> None:
    assert {c.gap for c in request("gap=0,1").configs} == {0, 1}
    assert {c.grid for c in request("task=stardist", "grid=4").configs} == {4}
    with pytest.raises(RequestError, match="gap: Input should be 0 or 1"):
        request("gap=2")


def test_settings_and_data_options() -> None:
    made = request("scheduler=asha", "gpus_per_trial=0.5", "split=time_blocks")
    assert made.settings.scheduler == "asha"
    assert made.settings.gpus_per_trial == 0.5
    assert made.data_options.split == "time_blocks"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("epoch=3", "did you mean epochs"),
        ("epochs=0", "epochs: .*greater than or equal to 1"),
        ("epochs", "write key=value"),
        ("architecture=SegNet", "unknown architecture 'SegNet'"),
        ("scheduler=sha", "'fifo' or 'asha'"),
        ("epochs=many", "valid integer"),
        ("zzzzzz=1", "known: task"),
        ("project=lab/cells", "project: a W&B project name cannot contain /"),
        (f"project={'x' * 129}", "project: .* at most 128 characters"),
        ("gpus_per_trial=1.5", "gpus_per_trial: 1.5 GPUs are not possible"),
        ("gpus_per_trial=0.0001", "gpus_per_trial: 0.0001 GPUs are not possible"),
        ("cpus_per_trial=0.0001", "cpus_per_trial: .* greater than or equal to 0.001"),
    ],
)
def test_wrong_changes(change: str, expected: str) -> None:
    with pytest.raises(RequestError, match=expected) as caught:
        request(change)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["nospace"],
        ["demo", "--set", "epoch=3"],
        ["demo", "--set", "encoder=resnet81"],
        ["demo", "--gpus", "two"],
        ["demo", "--seeds", "0"],
        ["paper"],
        ["demo", "--data", "nowhere"],
        ["demo", "--resume"],
        ["demo", "--out", "gs://bucket/x"],
        ["demo", "--set", "crop_size=64"],
        ["demo", "--set", "cpus_per_trial=4096"],
        ["demo", "--set", "task=segment"],
        ["paper", "--set", "rays=64"],
        ["demo", "--set", "gpus_per_trial=1", "--gpus", "0"],
        ["demo", "--set", "memory_per_trial=1e9"],
        ["demo", "--set", "checkpoint_seconds=inf"],
        ["demo", "--set", "encoder_weights=/nowhere/weights.pt"],
    ],
)
def test_wrong_requests_get_one_line_and_exit_code_2(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_wrong_command_gets_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweep.run", "demo", "--wandb", "loud"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", [".data.0123abcd.tmp", "weights", ".plan.json.0123abcd.tmp", "data", "sweep.log"]
)
def test_what_a_sweep_left_that_was_killed_early_is_in_nobodys_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert read_plan(tmp_path / "run") is None
    (tmp_path / "run" / name).mkdir(parents=True)
    assert read_plan(tmp_path / "run") is None


def test_plan_prints_the_trials_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main(["demo", "--plan", "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    assert "22 trials" in text
    for name in ARCHITECTURES:
        assert f"semantic2-{name}-resnet18-s1-" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "count", "memory"), [("2", 2, None), ("4xV100-32", 4, 32.0), ("1xA100", 1, None)]
)
def test_gpus(text: str, count: int, memory: float | None) -> None:
    gpus = parse_gpus(text)
    assert (gpus.count, gpus.memory_gb) == (count, memory)


def test_what_a_machine_can_never_give_is_refused() -> None:
    here = Resources(2, 0, memory_gb=8.0)
    check_limits(SweepSettings(memory_per_trial=8.0), here)
    with pytest.raises(RequestError, match=r"memory_per_trial=8\.5, but .* use 8\.0 GB"):
        check_limits(SweepSettings(memory_per_trial=8.5), here)
    beside = Resources(2, 1, memory_gb=8.0)
    check_limits(
        SweepSettings(memory_per_trial=8.5, stardist_cpus=2), beside
    )  # counts on CPUs only
    with pytest.raises(RequestError, match="stardist_cpus=3 is more than the 2 CPUs"):
        check_limits(SweepSettings(stardist_cpus=3), beside)


def test_slots() -> None:
    two = Resources(cpus=2, gpus=0)
    assert slots(SweepSettings(), two) == 2
    assert slots(SweepSettings(cpus_per_trial=2), two) == 1
    assert slots(SweepSettings(concurrency=1), two) == 1
    assert slots(SweepSettings(gpus_per_trial=0.5), Resources(8, 1)) == 2
    assert slots(SweepSettings(gpus_per_trial=0.4), Resources(8, 2)) == 4
    assert slots(SweepSettings(), Resources(8, 2)) == 2
    with pytest.raises(RequestError, match="cpus_per_trial=4 is more than the 2 CPUs"):
        slots(SweepSettings(cpus_per_trial=4), two)
    with pytest.raises(RequestError, match="gpus_per_trial=1, but 0 GPUs are available"):
        slots(SweepSettings(gpus_per_trial=1), two)


def test_a_fresh_cluster_will_grow() -> None:
    nothing = Resources(0, 0)
    assert growing(nothing, SweepSettings(), 4) == Resources(4, 4)
    assert slots(SweepSettings(), growing(nothing, SweepSettings(), 4)) == 4
    half = SweepSettings(gpus_per_trial=0.5, cpus_per_trial=2)
    assert growing(nothing, half, 1) == Resources(4, 1)
    assert slots(half, growing(nothing, half, None)) == 2
    assert slots(SweepSettings(), growing(nothing, SweepSettings(), None)) == 1
    assert growing(Resources(8, 2), SweepSettings(), None) == Resources(8, 2)


def row(
    name: str, iou: float | None, seed: int = 0, status: str = "done", **f: object
) -> dict[str, Any]:
    metrics = {
        "val_dataset_iou": iou,
        "val_image_iou": iou,
        "test_dataset_iou": iou,
        "test_image_iou": iou,
    }
    config = TrialConfig(architecture=name, seed=seed).model_dump(mode="json")
    return trial_row(f"{name}{seed}", config, {"status": status, "metrics": metrics, **f})


def test_rank_by_validation_only_and_failures_last() -> None:
    rows = [row("Unet", None, status="failed"), row("FPN", 0.5), row("PAN", 0.9), row("MAnet", 0.7)]
    rows[1]["test_dataset_iou"] = 0.99
    assert [r["architecture"] for r in rank(rows)] == ["PAN", "MAnet", "FPN", "Unet"]


def test_candidates_by_hand() -> None:
    table = candidates(
        [row("Unet", 0.8, 0), row("Unet", 0.9, 1), row("FPN", 0.5), row("Unet", None, 2, "failed")]
    )
    assert [c["architecture"] for c in table] == ["Unet", "FPN"]
    assert table[0]["seeds"] == 2
    assert table[0]["val_dataset_iou_mean"] == pytest.approx(0.85)
    assert table[0]["val_dataset_iou_sd"] == pytest.approx(0.0707107, abs=1e-6)
    assert table[1]["val_dataset_iou_sd"] is None


def test_settings_that_differ_make_different_candidates() -> None:
    """Every field of a configuration but its seed: none of them is pooled as if it were one."""
    configs = [
        TrialConfig(task="semantic3", boundary=boundary, seed=seed)
        for boundary in ("outline", "touching")
        for seed in (0, 1)
    ]
    values = (0.9, 0.8, 0.5, 0.4)
    rows = [
        trial_row(
            str(i),
            c.model_dump(mode="json"),
            {
                "status": "done",
                "metrics": dict.fromkeys(
                    ("val_dataset_iou", "val_image_iou", "test_dataset_iou", "test_image_iou"), v
                ),
            },
        )
        for i, (c, v) in enumerate(zip(configs, values))
    ]
    table = candidates(rows)
    assert [(c["boundary"], c["seeds"]) for c in table] == [("outline", 2), ("touching", 2)]
    assert [c["test_dataset_iou_mean"] for c in table] == pytest.approx([0.85, 0.45])
    assert [c["candidate"] for c in table] == [
        configs[0].candidate_key(),
        configs[2].candidate_key(),
    ]
    shown = set(rows[0])
    hidden = {"task", "epochs"}  # epochs: planned_epochs
    assert set(TrialConfig.model_fields) - hidden <= shown


def test_paper_correlation() -> None:
    order = ["UnetPlusPlus", "MAnet", "Unet", "Linknet", "FPN", "DeepLabV3Plus", "PAN", "DeepLabV3"]
    rows = [row(name, 0.9 - 0.01 * number) for number, name in enumerate(order)]
    assert paper_correlation(rows) == pytest.approx(1)
    assert paper_correlation(rows[1:]) is None
    # neither another task nor what did not finish counts, whatever it says
    other = [{**row(name, 0.01 * number), "task": "semantic3"} for number, name in enumerate(order)]
    lost = [{**row(name, 0.01 * number), "status": "failed"} for number, name in enumerate(order)]
    assert paper_correlation([*rows, *other, *lost]) == pytest.approx(1)


def test_ledger_survives_and_tables_follow(tmp_path: Path) -> None:
    ledger, config = Ledger(tmp_path), TrialConfig()
    ledger.write_start("a", config, "node1")
    ledger.write_start("a", config, "node2")
    record = ledger.read_one("a")
    assert record is not None
    assert [a["node"] for a in record["attempts"]] == ["node1", "node2"]
    ledger.write_history("a", [{"epoch": 1}])
    assert ledger.read_history("a") == [{"epoch": 1}]
    assert set(ledger.read()) == {"a"}
    plan = {"trials": [{"trial_id": i, "config": config.model_dump(mode="json")} for i in "ab"]}
    rows = write_tables(tmp_path, plan, ledger.read())
    assert [(r["trial_id"], r["status"]) for r in rows] == [("a", "running"), ("b", "waiting")]


def test_wandb_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_mode(None) == "offline"
    assert wandb_mode("off") == "off"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    assert wandb_mode(None) == "online"
    assert wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(None) == "off"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode(None) == "online"


def test_override_keeps_order() -> None:
    trials = override(SPACE.trials, {"loss": ["dice", "focal"]})
    assert [(t.architecture, t.loss) for t in trials] == [
        ("Unet", "dice"),
        ("Unet", "focal"),
        ("FPN", "dice"),
        ("FPN", "focal"),
    ]
    assert json.loads(json.dumps(COMMON_DIMENSIONS))


def test_normalization_is_a_dimension_and_a_column(tmp_path: Path) -> None:
    configs = request("normalization=image,dataset", seeds=2).configs
    assert [c.normalization.mode for c in configs[:4]] == ["image", "image", "dataset", "dataset"]
    own = SearchSpace(trials=grid(normalization={"low": 2.0, "high": 99.0}))
    (config,) = make_request("mine", own, ["normalization=dataset"], None).configs
    assert config.normalization.model_dump(exclude_none=True) == {
        "mode": "dataset",
        "low": 2.0,
        "high": 99.0,
    }
    rows = []
    for config in configs[::2][:2]:
        metrics = dict.fromkeys(IOUS, 0.5)
        record = {"status": "done", "metrics": metrics}
        rows.append(trial_row("x", config.model_dump(mode="json"), record))
    assert [r["normalization"] for r in rows] == ["image", "dataset"]
    assert [(c["normalization"], c["seeds"]) for c in candidates(rows)] == [
        ("image", 1),
        ("dataset", 1),
    ]
    drawn = config_of({"normalization": "dataset"}, {"base": own.trials[0].model_dump(mode="json")})
    assert (
        drawn.normalization
        == make_request("m", own, ["normalization=dataset"], None).configs[0].normalization
    )


def test_choices_of_numbers_are_read_from_the_command_line() -> None:
    grid_of = make_request("m", SPACE, ["task=stardist", "grid=1,4"], None)
    assert {config.grid for config in grid_of.configs} == {1, 4}
    gaps = make_request("m", SPACE, ["task=semantic2", "gap=0,1"], None).configs
    assert sorted({config.gap for config in gaps}) == [0, 1]
    with pytest.raises(RequestError, match=r"gap: Input should be 0 or 1, not 2"):
        make_request("m", SPACE, ["gap=2"], None)
