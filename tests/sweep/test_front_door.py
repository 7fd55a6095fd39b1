"""What a new user meets first: where runs lie, plans without a cluster, what comes next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sweep.request import Request, RequestError, load_space, make_request
from sweep.run import main
from sweep.runfolder import choose_out, default_out
from sweep.selection import only
from sweep.weights import check_weights
from tests.conftest import Swept
from tests.sweep.command_line import environment, make_data, start, wait_for

UNET = ("--set", "architecture=Unet", "--set", "task=semantic2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "my_data")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of the test's own, without a cluster by chance."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_out_is_named_after_space_and_data(
    data: Path, tmp_path: Path, hashed: Counter[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert default_out("demo", None) == Path("runs/demo")
    assert default_out("demo", f"{data}/") == Path("runs/demo-my_data")
    assert default_out("demo", f"{data}/images/..") == Path("runs/demo-my_data")
    # step 4 of the README after make demo: runs/demo holds another run
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/plan.json").write_text(
        json.dumps(
            {
                "format": 1,
                "recipe": 2,
                "key": {"fingerprint": "x"},
                "trials": [],
                "data": {"path": "/elsewhere", "options": {}},
                "commands": [],
                "created": "",
            }
        )
    )
    assert main(["demo", "--data", str(data), "--plan", *UNET]) == 0
    assert "semantic2-Unet-resnet18-s0-" in capsys.readouterr().out
    files = [*data.glob("images/*"), *data.glob("masks/*")]
    assert {hashed[path] for path in files} == {1}, "the driver hashes each file once"


def test_a_run_where_earlier_versions_put_it_is_found(data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/demo").mkdir(parents=True)
    plan = tmp_path / "runs/demo/plan.json"
    plan.write_text(json.dumps({"data": {"path": str(data)}}))
    assert choose_out(None, "demo", str(data)) == tmp_path / "runs/demo"
    (tmp_path / "runs/demo-my_data").mkdir()
    assert choose_out(None, "demo", str(data)) == tmp_path / "runs/demo-my_data"


@pytest.mark.parametrize(
    "words", [[], ["--gpus", "4"], ["--gpus", "4xA10G"], ["--set", "gpus_per_trial=0.5"]]
)
@pytest.mark.parametrize("told", ["RAY_ADDRESS", "--address"])
def test_plan_on_a_cluster_that_has_no_cores_yet(
    words: list[str],
    told: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if told == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "auto")
    else:
        words = [*words, "--address", "127.0.0.1:1"]
    assert main(["demo", "--data", str(data), "--plan", *UNET, *words]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    assert "semantic2-Unet-resnet18-s0-" in text
    assert "--plan does not join the cluster" in text
    assert ("nothing responds at 127.0.0.1:1" in text) == (told == "--address")
    assert ("GPU 3" in text) == ("4xA10G" in words)


def test_plan_without_data_on_a_cluster_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from search_spaces import SearchSpace, grid\n"
        "SPACE = SearchSpace(trials=grid(architecture='Unet', encoder='resnet18', epochs=5))\n"
    )
    words = ["mine.py", "--plan", "--gpus", "4xA10G", "--address", "127.0.0.1:1"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "semantic2-Unet-resnet18-s0" in text
    assert "no --data" in text


@pytest.fixture
def wrong_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A folder that cannot be, and what is to be said of it."""
    (tmp_path / "file").write_text("")
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    # root may write anywhere but where nobody can
    locked = Path("/proc/self") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid():
        locked.mkdir(mode=0o500)
    places = {
        "a file": (tmp_path / "file", "file: is a file"),
        "below a file": (tmp_path / "file/run", "file is a file"),
        "far below a file": (tmp_path / "file/runs/run", "file is a file"),
        "a dead link": (tmp_path / "dead", "is a link to a missing folder"),
        "a loop": (tmp_path / "loop/run", "Too many levels of symbolic links"),
        "no permission": (locked / "run", "cannot be written to"),
        "a long name": (tmp_path / ("x" * 300), "longer than 255 bytes"),
        "no UTF-8": (tmp_path / os.fsdecode(b"m\xe4use"), "m\\xe4use: the name is not UTF-8"),
    }
    path, said = places[request.param]
    return str(path), said


@pytest.mark.parametrize("more", [["--plan"], []])
@pytest.mark.parametrize(
    "wrong_out",
    [
        "a file",
        "below a file",
        "far below a file",
        "a dead link",
        "a loop",
        "no permission",
        "a long name",
        "no UTF-8",
    ],
    indirect=True,
)
def test_an_out_that_cannot_be_is_refused(
    wrong_out: tuple[str, str], more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, said = wrong_out
    assert main(["demo", "--out", path, *more]) == 2
    text, err = capsys.readouterr()
    assert text == ""
    assert len(err.strip().splitlines()) == 1
    assert said in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_read_only_disk_is_refused_in_a_plan_too(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    script = (
        f"mount -t tmpfs -o ro none disk 2>/dev/null || exit 77\n"
        f"exec {shlex.quote(sys.executable)} -m sweep.run demo --plan --out disk/run"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    if done.returncode in (77, 1) and "error:" not in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 2
    assert "disk cannot be written to" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def names(*filters: str) -> list[str]:
    chosen = only(make_request(*load_space("demo"), [], None), filters)
    assert len(chosen.configs) + len(chosen.left_out) == 11
    return [f"{c.task}/{c.architecture}" for c in chosen.configs]


def test_only_is_a_filter() -> None:
    assert names("architecture=Unet") == ["semantic2/Unet", "semantic3/Unet", "stardist/Unet"]
    assert names("architecture=U-Net++,fpn", "task=semantic2") == [
        "semantic2/UnetPlusPlus",
        "semantic2/FPN",
    ]
    assert names("task=semantic3", "task=stardist") == [
        "semantic3/Unet",
        "stardist/StarDist",
        "stardist/Unet",
    ]
    assert len(names("batch_size=4.0")) == 11
    assert names("epochs=6") == ["stardist/StarDist"]
    request = make_request(*load_space("demo"), ["learning_rate=1e-3,0.01"], None)
    assert len(only(request, ["learning_rate=.001"]).configs) == 11


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["architecture=SegNet"],
            "architecture=SegNet: no trial of this space has this value; choose from Unet, ",
        ),
        (["architecture=Unet,Linket"], "architecture=Linket: no trial"),
        (["encoder=vgg19"], "choose from resnet18, none"),
        (
            ["architecture=FPN", "task=semantic3"],
            "no trial has all of these; with the others, task is semantic2",
        ),
        (["architectur=Unet"], "did you mean architecture?"),
        (["epochs"], "write key=value"),
        (["epochs=5", "demo"], "SPACE comes before --only"),
        (["scheduler=asha"], "no such setting; did you mean lr_schedule?"),
        (["zzz=1"], "no such setting; known: task"),
    ],
)
def test_a_filter_that_matches_nothing_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--plan", "--only", *words]) == 2
    text, err = capsys.readouterr()
    assert text == ""
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_search_has_no_list_to_choose_from(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hpo", "--data", str(data), "--plan", "--only", "task=semantic2"]) == 2
    text, err = capsys.readouterr()
    assert text == ""
    assert "--only: does not work with search=optuna" in err


def test_plan_of_an_extension_counts_what_is_left(
    sweep_of_cells: Swept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swept, space = sweep_of_cells, tmp_path / "space.py"
    space.write_text(
        swept.space.read_text()
        + "MORE = grid(architecture='Linknet', encoder='mobilenet_v2', **SHARED)\n"
        "SPACE = SearchSpace(trials=(*SPACE.trials, *MORE))\n"
    )
    words = [str(space), "--data", str(swept.data), "--wandb", "off", "--plan", "--out"]
    plans = {}
    for out in (swept.out, tmp_path / "new"):
        assert main([*words, str(out)]) == 0
        plans[out] = capsys.readouterr().out
    extended, fresh = plans.values()
    assert "6 trials: 4 done, 1 failed, 1 to run" in extended
    assert "6 trials\n" in fresh
    times = {
        line.split()[0]: line.split()[-1]
        for line in extended.splitlines()
        if "-s0-" in line.split(" ")[0]
    }
    assert sorted(times.values(), key="dfs".find) == ["done"] * 4 + ["failed"] + ["s"], extended
    assert sum("Linknet" in name for name in times) == 1

    def gigabytes(text: str) -> float:
        (line,) = (line for line in text.splitlines() if line.startswith("checkpoints need"))
        return float(line.split()[3])

    assert gigabytes(extended) < 0.5 * gigabytes(fresh)
    assert "1 trial " in extended
    assert main([*words, str(swept.out), "--resume"]) == 0
    assert "6 trials: 4 done, 2 to run" in capsys.readouterr().out
    # on GPUs that would compute in bfloat16 these are still the same trials
    assert main([*words, str(swept.out), "--only", "architecture=FPN", "--gpus", "1xA100"]) == 0
    assert "1 trials: 1 done, 0 to run" in capsys.readouterr().out


def test_interrupted_before_there_is_a_run_it_does_not_advise_to_resume(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nopen('begun', 'w')\ntime.sleep(500)\n")
    process = start("slow.py", cwd=tmp_path)
    wait_for((tmp_path / "begun").exists, process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=500)
    assert (process.returncode, text) == (130, "")
    assert err == "interrupted; nothing was started\n"


def test_a_folder_that_another_sweep_used_meanwhile_is_not_written_to(
    sweep_of_cells: Swept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def while_another_runs(request: Request, out: Path) -> Request:
        out.mkdir()
        shutil.copy(sweep_of_cells.out / "plan.json", out)
        return check_weights(request, out)

    monkeypatch.setattr("sweep.session.check_weights", while_another_runs)
    words = [str(sweep_of_cells.space), "--data", str(sweep_of_cells.data), "--only", "seed=0"]
    assert main([*words, "--out", str(tmp_path / "run"), "--wandb", "off"]) == 2
    err = capsys.readouterr().err
    assert "another sweep has used this folder" in err
    assert len(err.strip().splitlines()) == 1


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(RequestError, match="this kind of address is not supported"):
        choose_out("gs://bucket/x", "demo", None)


def test_the_address_of_rays_client_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--data", str(data), "--address", "ray://192.0.2.1:10001", *UNET]
    assert main([*words, "--wandb", "off"]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert "the address of Ray's client, through which no sweep can run" in line
