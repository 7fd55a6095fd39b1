"""Recipe 1 of CONTRIBUTING.md, to the letter: a network and a loss that are not this project's."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from torch import nn

from tests.sweep.command_line import rows, run
from trainables import checkpoint, extensions
from trainables.config import TrialConfig
from trainables.errors import CheckpointError

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


def recipe() -> dict[str, str]:
    """Return the files that the recipe shows."""
    return dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    for name in ("mynet.py", "space.py", "mydpt.py"):
        (folder / name).write_text(recipe()[name])
    return folder


@pytest.fixture(scope="module")
def trained(lab: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a sweep, started where the user's module cannot be imported from."""
    out = tmp_path_factory.mktemp("elsewhere") / "run"
    words = ("--wandb", "off", "--only", "architecture=mynet:build", "--set", "epochs=2")
    code, text, err = run(
        lab / "space.py",
        "--data",
        tiny_dataset,
        "--out",
        out,
        *words,
        "--set",
        "crop_size=64",
        cwd=out.parent,
    )
    assert code == 0, text + err
    return out


def the_checkpoint(out: Path) -> Path:
    (row,) = rows(out)
    return out / row["checkpoint"]


@pytest.fixture
def importable(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(lab)
    yield
    sys.modules.pop("mynet", None)


@pytest.fixture
def installed(lab: Path, importable: None) -> Iterator[None]:
    """What pip leaves of the recipe's package."""
    points = tomllib.loads(recipe()["pyproject.toml"])["project"]["entry-points"]
    info = lab / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in ones.items())
        for group, ones in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    extensions.registered.cache_clear()
    yield
    for path in [*info.iterdir()]:
        path.unlink()
    info.rmdir()
    extensions.registered.cache_clear()


def test_it_trains_and_is_ranked(trained: Path) -> None:
    (row,) = rows(trained)
    names = row["architecture"], row["encoder"], row["loss"], row["status"]
    assert names == ("mynet:build", "none", "mynet:MyLoss", "done")
    assert re.fullmatch(r"semantic2-mynet_build-none-s0-[0-9a-f]{10}", row["trial_id"])


@pytest.mark.usefixtures("importable")
def test_a_checkpoint_comes_back_with_its_builder_only(trained: Path) -> None:
    folder = the_checkpoint(trained)
    with pytest.raises(CheckpointError, match=r"mynet:build.*load\(path, builder=") as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert "mynet" not in sys.modules
    import mynet  # type: ignore[import-not-found]

    predictor = checkpoint.load(folder, builder=mynet.build)
    assert predictor.probability(np.zeros((40, 50), np.uint16)).shape == (40, 50)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("command", ["analysis.run", "analysis.segment"])
def test_commands_refuse_what_they_would_have_to_import(
    command: str,
    trained: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from analysis import run as analysis_run
    from analysis import segment as analysis_segment

    images = ["--model", str(trained), str(tiny_dataset / "images"), "--out", str(tmp_path / "o")]
    if command == "analysis.run":
        assert analysis_run.main([str(trained)]) == 2
    else:
        assert analysis_segment.main(images) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"error: .*entry point segsweep\.architectures: NAME = mynet:build.*\n", said
    )
    assert "mynet" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_an_entry_point_opens_it_to_everything(trained: Path, tiny_dataset: Path) -> None:
    from analysis.segment import segment
    from trainables.architectures import build_model
    from trainables.losses import build_loss

    config = TrialConfig(architecture="my-net", encoder="none", loss="my_loss")
    assert (config.architecture, config.loss) == ("MyNet", "my_loss")
    network = build_model("MyNet", "none", classes=3)
    assert isinstance(network, nn.Sequential)
    assert len(network) == 4
    assert build_loss("my_loss", classes=3).reduction == "mean"
    image = tifffile.imread(tiny_dataset / "images" / "i0.tif")
    assert segment(image, trained).shape == image.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonet:build", "'nonet:build': no module nonet is found here"),
        ("mynet:Build", r"'mynet:Build': .*mynet\.py defines no Build"),
        ("mynet:", "'mynet:': write module:function"),
    ],
)
def test_names_are_refused_before_anything_starts(
    name: str,
    message: str,
    lab: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sweep.run import main

    monkeypatch.setattr(sys, "path", [*sys.path])
    for setting in ("architecture", "loss"):
        words = ["--set", f"{setting}={name}", "--plan", "--out", str(tmp_path / "run")]
        assert main([str(lab / "space.py"), *words]) == 2
        said = capsys.readouterr().err
        assert re.fullmatch(f"error: .*{message}.*\n", said)


def test_plans_check_names_without_torch(lab: Path) -> None:
    code = (
        "import sys; from sweep.request import load_space, make_request;"
        "from sweep.own_code import check_own_code, modules_to_send;"
        f"request = make_request(*load_space({str(lab / 'space.py')!r}), [], None);"
        "check_own_code(request); print(modules_to_send(request, None));"
        "assert not {'torch', 'mynet'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True)
    assert done.stdout.count("PosixPath") == 1
    assert str(lab / "mynet.py") in done.stdout


def test_further_networks_of_smp(lab: Path, importable: None) -> None:
    import torch

    from trainables.architectures import build_model

    with torch.device("meta"):
        network = build_model("mydpt:build", "tu-vit_tiny_patch16_224", classes=3)
        assert network(torch.empty(2, 1, 96, 128)).shape == (2, 3, 96, 128)
        for name in extensions.TRUSTED:
            network = build_model(name, "resnet18", classes=3)
            assert network(torch.empty(2, 1, 96, 128)).shape == (2, 3, 96, 128)
