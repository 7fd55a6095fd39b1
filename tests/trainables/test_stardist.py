"""stardist's own model: its trial, its checkpoint, and the process that both live in."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from trainables import checkpoint
from trainables.checkpoint import CheckpointError
from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data import DataSet, index_dataset
from trainables.errors import OutOfMemory, TrainingError
from trainables.imagefiles import read_image, read_labels
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.stardist import StarDistPredictor, train_stardist

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("tensorflow", "stardist")
]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

ROOT = Path(__file__).parents[2]
WORKER = "trainables.stardist_worker"
EVERY_EPOCH = RunOptions(device="cpu", checkpoint_seconds=0)


def config(**changes: object) -> TrialConfig:
    fields = {
        "task": "stardist", "architecture": "StarDist", "crop_size": 64, "rays": 16, "epochs": 3,
        "batch_size": 4, "learning_rate": 3e-3, "augmentation": "medium",
    }  # fmt: skip
    return TrialConfig.model_validate({**fields, **changes})


def workers(parent: int) -> set[int]:
    """Process ids of a parent's running stardist workers."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
            if WORKER in command and int(stat(int(folder.name))[1]) == parent:
                found.add(int(folder.name))
        except OSError:
            continue  # ended meanwhile
    return found


def stat(pid: int) -> list[str]:
    """State, parent and what follows in ``/proc/PID/stat``; the name before it may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends in time; a zombie whose new parent does not reap it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if stat(pid)[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def libraries(pid: int) -> set[str]:
    """Which of the two frameworks' libraries a process has loaded."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    names = {"tensorflow": "/tensorflow/", "torch": "/torch/lib/"}
    return {name for name, part in names.items() if part in maps}


def printed(code: str) -> str:
    """What Python prints for a script of its own process."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    return str(caught.value)


def losses(records: tuple[EpochRecord, ...]) -> list[tuple[float, float | None]]:
    return [(record.train_loss, record.val_loss) for record in records]


def assert_equal_course(one: TrialResult, other: TrialResult) -> None:
    assert [r.epoch for r in one.history] == [r.epoch for r in other.history]
    np.testing.assert_allclose(losses(one.history), losses(other.history), rtol=0, atol=1e-6)
    for name in ("best_epoch", "val_dataset_iou", "test_dataset_iou", "test_image_iou"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-6)


@dataclass
class Calm:
    """What was seen of an undisturbed trial."""

    result: TrialResult
    folder: Path
    reported: list[EpochRecord] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return index_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def calm(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    seen = Calm(None, tmp_path_factory.mktemp("stardist") / "trial")  # type: ignore[arg-type]

    def report(record: EpochRecord) -> None:
        seen.reported.append(record)
        seen.written |= {path.name for path in seen.folder.iterdir() if path.name[0] != "."}
        for pid in workers(os.getpid()):  # none where there is no /proc
            seen.pids.add(pid)
            seen.loaded |= libraries(pid)

    seen.result = train_stardist(
        config(), dataset, seen.folder, options=EVERY_EPOCH, on_epoch=report
    )
    seen.written |= {path.name for path in seen.folder.iterdir()}
    return seen


@pytest.fixture(scope="module")
def predictor(calm: Calm) -> Iterator[StarDistPredictor]:
    loaded = checkpoint.load(calm.folder)
    assert isinstance(loaded, StarDistPredictor)
    with loaded:
        yield loaded


@pytest.fixture
def copy(calm: Calm, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calm.folder, tmp_path / "copy"))


def test_history_and_result(calm: Calm) -> None:
    result = calm.result
    assert [record.epoch for record in result.history] == [1, 2, 3]
    assert tuple(calm.reported) == result.history
    assert np.isfinite(losses(result.history)).all()
    assert result.history[2].train_loss < result.history[0].train_loss
    assert all(r.seconds > 0 and r.val_dataset_iou is not None for r in result.history)
    assert (result.epochs, result.checkpoint) == (3, str(calm.folder))
    assert result.parameters_m == pytest.approx(1.40, abs=0.05)
    assert result.peak_memory_mb > 100
    for name in ("val_dataset_iou", "val_image_iou", "test_dataset_iou", "test_image_iou"):
        assert 0 <= getattr(result, name) <= 1


def test_the_manifest_says_what_prediction_needs(calm: Calm) -> None:
    content = json.loads((calm.folder / "checkpoint.json").read_text())
    assert TrialConfig.model_validate(content["config"]) == config()
    assert content["weights"]["file"] == "model.weights.h5"
    assert content["stardist"]["n_rays"] == 16
    assert content["stardist"]["grid"] == [config().grid] * 2
    assert all(0 < content["task"]["thresholds"][name] < 1 for name in ("prob", "nms"))
    assert {"stardist", "tensorflow", "keras"} <= set(content["versions"])


def test_nothing_that_could_execute_is_written(calm: Calm) -> None:
    assert {Path(name).suffix for name in calm.written} <= {".json", ".h5", ".npz"}
    assert {path.name for path in calm.folder.iterdir()} == {
        "checkpoint.json", "model.weights.h5", "result.json",
    }  # fmt: skip
    assert (calm.folder / "model.weights.h5").read_bytes()[:4] == b"\x89HDF"


@linux
def test_the_frameworks_never_share_a_process_which_ends_with_its_trial(calm: Calm) -> None:
    assert len(calm.pids) == 1
    assert calm.loaded == {"tensorflow"}
    assert "tensorflow" not in sys.modules
    assert "tensorflow" not in libraries(os.getpid())
    assert all(gone(pid) for pid in calm.pids)


def test_the_parent_module_imports_no_framework() -> None:
    code = "import sys, trainables.stardist; print({'torch', 'tensorflow'} & set(sys.modules))"
    assert printed(code) == "set()\n"


def test_the_worker_augments_without_torch() -> None:
    code = """if True:
        import sys
        import trainables.stardist_worker as worker
        import numpy as np
        image, labels = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.int32)
        labels[20:40, 20:40] = 70000
        augment = worker.Augmenter("strong")
        augment.reseed(0)
        assert set(np.unique(augment(image, labels)[1])) == {0, 70000}
        try:
            import torch
        except ModuleNotFoundError as error:
            print(error)
        print(any(name.split(".")[0] == "torch" for name in sys.modules))
    """
    assert printed(code).splitlines() == ["torch is blocked here", "False"]


def test_the_worker_ends_with_its_standard_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, "1"], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) != 0


def test_a_finished_trial_answers_at_once(
    calm: Calm, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    assert train_stardist(config(), dataset, calm.folder) == calm.result


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_checkpoint_predicts_what_was_measured(
    calm: Calm, predictor: StarDistPredictor, dataset: DataSet, split: str
) -> None:
    counts = []
    for item in dataset.subset(split):
        image, truth = read_image(item.image), read_labels(item.mask).labels
        labels = predictor.labels(image)
        assert labels.shape == truth.shape
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(predictor.foreground(image), labels > 0)
        counts.append(overlap_counts(labels > 0, truth > 0))
    expected = [getattr(calm.result, f"{split}_{kind}_iou") for kind in ("dataset", "image")]
    assert iou_from_counts(counts) == pytest.approx(expected, abs=1e-9)


def test_raw_predictions(predictor: StarDistPredictor, dataset: DataSet) -> None:
    image = read_image(dataset.subset("test")[0].image)
    prob, dist = predictor.raw(image)
    grid = predictor.config.grid
    coarse = tuple(-(-side // grid) for side in image.shape)
    assert (prob.shape, dist.shape) == (coarse, (16, *coarse))
    assert prob.dtype == dist.dtype == np.float32
    assert 0 <= prob.min() < prob.max() <= 1
    assert np.isfinite(dist).all()
    whole = predictor.probability(image)
    assert whole.shape == image.shape
    np.testing.assert_array_equal(whole[::grid, ::grid], prob)
    # scaled by its own percentiles, so that exposure and offset do not matter
    brighter = predictor.probability(image.astype(np.float32) * 3 + 500)
    np.testing.assert_allclose(brighter, whole, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 130)])
def test_images_of_any_shape(predictor: StarDistPredictor, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    assert predictor.labels(image).shape == shape


def test_damaged_checkpoints_are_refused_in_one_line(copy: Path) -> None:
    content = json.loads((copy / "checkpoint.json").read_text())
    del content["task"]["thresholds"]
    (copy / "checkpoint.json").write_text(json.dumps(content))
    assert re.search(r"no thresholds.*\Z", refused(copy))
    weights = bytearray((copy / "model.weights.h5").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "model.weights.h5").write_bytes(weights)
    assert refused(copy).endswith("is damaged: its SHA-256 is not the recorded one")


def interrupted(dataset: DataSet, folder: Path, disturb: Callable[[set[int]], None]) -> None:
    """Train until `disturb`, called with the trial's processes after epoch 1, ends it."""
    others = workers(os.getpid())  # of predictors that other tests still use

    def report(record: EpochRecord) -> None:
        if record.epoch == 1:
            disturb(workers(os.getpid()) - others)

    train_stardist(config(), dataset, folder, options=EVERY_EPOCH, on_epoch=report)


def resumed(dataset: DataSet, folder: Path) -> TrialResult:
    """Go on with a trial that was interrupted."""
    assert (folder / "resume.json").is_file()
    assert not (folder / "result.json").exists()
    reported: list[int] = []
    result = train_stardist(
        config(), dataset, folder, on_epoch=lambda record: reported.append(record.epoch)
    )
    assert 1 not in reported  # it went on, and did not begin again
    return result


@pytest.mark.slow
def test_stopped_by_its_report_and_resumed(calm: Calm, dataset: DataSet, tmp_path: Path) -> None:
    running: set[int] = set()

    def stop(pids: set[int]) -> None:
        running.update(pids)
        raise KeyError("stopped by its report")

    with pytest.raises(KeyError, match="stopped by its report"):
        interrupted(dataset, tmp_path / "trial", stop)
    assert all(gone(pid) for pid in running)
    assert_equal_course(resumed(dataset, tmp_path / "trial"), calm.result)


@linux
@pytest.mark.slow
def test_its_process_killed_and_resumed(calm: Calm, dataset: DataSet, tmp_path: Path) -> None:
    def kill(pids: set[int]) -> None:
        (pid,) = pids
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"code -9.*memory") as caught:
        interrupted(dataset, tmp_path / "trial", kill)
    assert "\n" not in str(caught.value)
    assert_equal_course(resumed(dataset, tmp_path / "trial"), calm.result)


PARENT = """if True:
    import sys, time
    from pathlib import Path
    from trainables.config import RunOptions, TrialConfig
    from trainables.data import index_dataset
    from trainables.stardist import train_stardist

    def report(record):
        print(record.epoch, flush=True)
        time.sleep(600)

    config = TrialConfig.model_validate_json(sys.argv[1])
    options = RunOptions(device="cpu", checkpoint_seconds=0)
    data = index_dataset(sys.argv[2])
    train_stardist(config, data, Path(sys.argv[3]), options=options, on_epoch=report)
"""


@linux
@pytest.mark.slow
def test_killed_with_its_trial(dataset: DataSet, tmp_path: Path) -> None:
    long = config(epochs=10_000).model_dump_json()
    command = [sys.executable, "-c", PARENT, long, str(dataset.root), str(tmp_path / "trial")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "1\n"
        (pid,) = workers(parent.pid)
        parent.kill()
    assert gone(pid)
    assert (tmp_path / "trial" / "resume.json").is_file()


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="the worker runs ahead of reports and saves what none saw")
def test_every_epoch_is_reported_once_over_attempts(dataset: DataSet, tmp_path: Path) -> None:
    def stop_slowly(_: set[int]) -> None:
        time.sleep(5)  # as a busy Tune controller does
        raise KeyError

    folder = tmp_path / "trial"
    with pytest.raises(KeyError):
        interrupted(dataset, folder, stop_slowly)
    state = json.loads((folder / "resume.json").read_text())
    assert state["epoch"] == 1


@linux
@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="PR_SET_PDEATHSIG tells of the thread that started it")
def test_a_predictor_outlives_the_thread_that_used_it_first(calm: Calm) -> None:
    image = np.zeros((64, 64), np.uint16)
    loaded = checkpoint.load(calm.folder)
    assert isinstance(loaded, StarDistPredictor)
    with loaded:
        first = threading.Thread(target=loaded.raw, args=(image,))
        first.start()
        first.join()
        time.sleep(1)
        loaded.raw(image)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_trial(dataset: DataSet, tmp_path: Path) -> None:
    steep = config(learning_rate=1.0, lr_schedule="constant", epochs=20)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch \d+; try a") as caught:
        train_stardist(steep, dataset, tmp_path / "trial", options=EVERY_EPOCH)
    assert "\n" not in str(caught.value)


@linux
@pytest.mark.slow
def test_too_little_memory_is_told_as_such(dataset: DataSet, tmp_path: Path) -> None:
    options = RunOptions(device="cpu", memory_gb=0.05)
    with pytest.raises(OutOfMemory) as caught:
        train_stardist(config(), dataset, tmp_path / "trial", options=options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_it_learns_discs_and_shows_them(dataset: DataSet, tmp_path: Path) -> None:
    pictures: list[tuple[str, np.ndarray]] = []
    result = train_stardist(
        config(epochs=40, batch_size=2, augmentation="light"), dataset, tmp_path / "trial",
        on_overlays=pictures.extend,
    )  # fmt: skip
    assert result.test_dataset_iou > 0.7
    assert [picture.shape for _, picture in pictures] == [(90, 100, 3)]
    assert not (tmp_path / "trial" / "overlays.npz").exists()
