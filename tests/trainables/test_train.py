from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from trainables import checkpoint
from trainables.config import EpochRecord, RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import DataSet, open_dataset
from trainables.data.examples import Example
from trainables.data.imagefiles import read_image
from trainables.errors import CheckpointError, OutOfMemory, TrainingError
from trainables.learning_rate import learning_rate_factor
from trainables.metrics import iou_from_counts, overlap_counts
from trainables.module import Scores, SegmentationModule
from trainables.predict import Predictor, pad_to_stride
from trainables.tiling import Inference
from trainables.train import train

OFTEN = RunOptions(checkpoint_seconds=0)


def config(**changes: object) -> TrialConfig:
    fixed = {"encoder": "mobilenet_v2", "crop_size": 64, "batch_size": 4, "epochs": 3}
    return TrialConfig(**{**fixed, **changes})


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> DataSet:
    return open_dataset(tiny_dataset)


@pytest.fixture(scope="module")
def calm(dataset: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    return train(config(), dataset, tmp_path_factory.mktemp("calm"))


def figures(result: TrialResult) -> list[tuple[Any, ...]]:
    epochs = [(r.epoch, r.train_loss, r.val_loss, r.val_dataset_iou) for r in result.history]
    return [*epochs, (result.best_epoch, result.test_dataset_iou, result.test_image_iou)]


def interrupted(cfg: TrialConfig, dataset: DataSet, folder: Path, epoch: int) -> TrialResult:
    class Cut(Exception):
        pass

    def cut(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise Cut

    with pytest.raises(Cut):
        train(cfg, dataset, folder, options=OFTEN, on_epoch=cut)
    assert (folder / "resume.json").is_file()
    seen: list[int] = []
    result = train(cfg, dataset, folder, options=OFTEN, on_epoch=lambda r: seen.append(r.epoch))
    assert seen == list(range(epoch + 1, cfg.epochs + 1))
    return result


def test_interrupted_equals_undisturbed(
    calm: TrialResult, dataset: DataSet, tmp_path: Path
) -> None:
    result = interrupted(config(), dataset, tmp_path / "t", 1)
    assert figures(result) == figures(calm)
    left = {path.name for path in (tmp_path / "t").iterdir()}
    assert left == {"weights.pt", "checkpoint.json", "result.json"}


@pytest.mark.parametrize(
    "architecture",
    ["FPN", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DeepLabV3", "Linknet"))],
)
def test_networks_with_dropout_resume_exactly(
    architecture: str, dataset: DataSet, tmp_path: Path
) -> None:
    cfg = config(architecture=architecture, augmentation="strong")
    undisturbed = train(cfg, dataset, tmp_path / "calm")
    assert figures(interrupted(cfg, dataset, tmp_path / "t", 2)) == figures(undisturbed)


def test_a_finished_trial_answers_at_once(calm: TrialResult, dataset: DataSet) -> None:
    def never(record: EpochRecord) -> None:
        raise AssertionError

    again = train(config(), dataset, Path(calm.checkpoint), on_epoch=never)
    assert again == calm


def test_result_and_pictures(dataset: DataSet, tmp_path: Path) -> None:
    pictures: list[tuple[str, NDArray[np.uint8]]] = []
    result = train(
        config(epochs=2, validate_every=5), dataset, tmp_path / "t", on_overlays=pictures.extend
    )
    assert [r.val_dataset_iou is None for r in result.history] == [True, False]
    assert result.best_epoch == result.epochs == 2
    assert 6 < result.parameters_m < 7
    assert result.peak_memory_mb > 50
    assert [picture.shape for _, picture in pictures] == [(90, 100, 3), (82, 108, 3)]
    for caption, picture in pictures:
        assert "truth" in caption
        assert picture.dtype == np.uint8


def test_two_runs_are_equal(calm: TrialResult, dataset: DataSet, tmp_path: Path) -> None:
    assert figures(train(config(), dataset, tmp_path / "t")) == figures(calm)


def test_epochs_of_one_step_resume_exactly(dataset: DataSet, tmp_path: Path) -> None:
    cfg = config(batch_size=1000)
    undisturbed = train(cfg, dataset, tmp_path / "calm")
    assert figures(interrupted(cfg, dataset, tmp_path / "t", 1)) == figures(undisturbed)


def test_memory_that_runs_out_in_a_later_epoch(dataset: DataSet, tmp_path: Path) -> None:
    """What was trained in whole batches goes on in micro-batches: epochs and steps are the same."""
    seen: list[int] = []
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def cut(record: EpochRecord) -> None:
        seen.append(record.epoch)
        if seen == [1]:
            raise MemoryError

    def watched(self: torch.optim.AdamW, *args: Any, **keywords: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        with pytest.raises(OutOfMemory):
            train(config(), dataset, tmp_path / "t", options=OFTEN, on_epoch=cut)
        a_batch = len(rates)
        small = OFTEN.model_copy(update={"micro_batch": 2})
        result = train(config(), dataset, tmp_path / "t", options=small, on_epoch=cut)
    assert seen == [1, 2, 3]
    assert (result.epochs, result.micro_batch) == (3, 2)
    count = 3 * a_batch
    assert len(rates) == count
    factor = learning_rate_factor("cosine", count)
    assert rates == pytest.approx([config().learning_rate * factor(n) for n in range(count)])


def test_interrupted_before_the_first_validation(dataset: DataSet, tmp_path: Path) -> None:
    cfg = config(validate_every=2)
    undisturbed = train(cfg, dataset, tmp_path / "calm")
    assert [r.val_dataset_iou is None for r in undisturbed.history] == [True, False, False]
    assert figures(interrupted(cfg, dataset, tmp_path / "t", 1)) == figures(undisturbed)


@pytest.mark.parametrize("cut", [None, 3])
def test_early_stopping(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int | None
) -> None:
    ious = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]  # an equal value is no better one

    def scripted(
        self: SegmentationModule, images: Iterable[Example], precision: str, inference: Inference
    ) -> Scores:
        iou = ious[min(self.current_epoch, 5)]
        return Scores(0.5, iou, iou)

    monkeypatch.setattr("trainables.module.SegmentationModule.evaluate", scripted)
    cfg, seen = config(epochs=6, early_stopping=3), []

    def report(record: EpochRecord) -> None:
        seen.append(record.epoch)
        if record.epoch == cut and seen.count(cut) == 1:
            raise KeyError

    if cut:
        with pytest.raises(KeyError):
            train(cfg, dataset, tmp_path / "t", options=OFTEN, on_epoch=report)
    result = train(cfg, dataset, tmp_path / "t", options=OFTEN, on_epoch=report)
    assert seen == [1, 2, 3, 4, 5]  # the patience counts on over an interruption
    assert (result.best_epoch, result.epochs) == (2, 5)


def test_a_validation_loss_that_is_not_finite_ends_the_trial(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainables.module.SegmentationModule.evaluate", lambda *_: Scores(float("nan"), 0.0, 0.0)
    )
    with pytest.raises(TrainingError, match="validation loss became nan in epoch 1; try a smaller"):
        train(config(epochs=1), dataset, tmp_path / "t")
    assert not (tmp_path / "t" / "result.json").exists()


def test_a_loss_that_is_not_finite_ends_the_trial(
    dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(
        self: SegmentationModule, batch: tuple[torch.Tensor, torch.Tensor], index: int
    ) -> torch.Tensor:
        loss: torch.Tensor = self.network(self.scaling(batch[0])).mean() * float("nan")
        self._losses.append(loss.detach())
        return loss

    monkeypatch.setattr("trainables.module.SegmentationModule.training_step", broken)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 1; try a smaller"):
        train(config(), dataset, tmp_path / "t")


def test_checkpoint_predicts_what_was_measured(calm: TrialResult, dataset: DataSet) -> None:
    predictor = checkpoint.load(calm.checkpoint)
    counts = []
    for item in dataset.subset("test"):
        labels = tifffile.imread(item.mask)
        image = read_image(item.image)
        counts.append(overlap_counts(predictor.foreground(image), labels > 0))
        # exposure and offset do not matter
        brighter = predictor.probability(image.astype(np.uint32) * 7 + 5)
        np.testing.assert_allclose(brighter, predictor.probability(image), atol=2e-2)
    assert iou_from_counts(counts)[0] == pytest.approx(calm.test_dataset_iou, abs=1e-9)
    assert predictor.info["data"]["fingerprint"] == dataset.fingerprint
    assert torch.__version__.startswith(predictor.info["versions"]["torch"])
    assert predictor.config.precision in ("32", "bf16")  # what auto was on this machine
    assert predictor.config == config(precision=predictor.config.precision)


def test_encoder_weights_from_a_file(dataset: DataSet, tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    encoder = smp.encoders.get_encoder("mobilenet_v2", in_channels=3, weights=None)
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    torch.save(encoder.state_dict(), tmp_path / "mobilenet_v2.pth")
    cfg = config(epochs=1, encoder_weights=str(tmp_path / "mobilenet_v2.pth"), learning_rate=1e-12)
    options = RunOptions(weights_cache=str(tmp_path / "cache"))
    result = train(cfg, dataset, tmp_path / "t", options=options)
    predictor = checkpoint.load(result.checkpoint)
    assert isinstance(predictor, Predictor)
    first = next(predictor.network.get_submodule("encoder").parameters())
    assert first.shape[1] == 1
    torch.testing.assert_close(first, torch.full_like(first, 0.03))  # summed over colours
    record = predictor.info["encoder_weights"]
    assert record["name"] == "mobilenet_v2"
    assert record["licence"] == "licence not known"
    content = (tmp_path / "mobilenet_v2.pth").read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert predictor.scaling.mean == pytest.approx((0.485 + 0.456 + 0.406) / 3, abs=1e-6)


def test_weights_that_changed_after_the_plan_end_the_trial(
    dataset: DataSet, tmp_path: Path
) -> None:
    path = tmp_path / "mobilenet_v2.pth"
    torch.save({"a": torch.zeros(1)}, path)
    cfg = config(encoder_weights=str(path), weights_id=f"{path.name}#{'1' * 64}")
    with pytest.raises(TrainingError, match=r"mobilenet_v2\.pth have changed since the sweep was"):
        train(cfg, dataset, tmp_path / "t")


@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (100, 100), (200, 257)])
def test_padding_keeps_the_image(shape: tuple[int, int]) -> None:
    x = torch.rand(1, 1, *shape)
    padded, rows, columns = pad_to_stride(x)
    assert all(n % 32 == 0 and n >= 128 for n in padded.shape[-2:])
    assert torch.equal(padded[..., rows, columns], x)


def test_learning_rate_schedules() -> None:
    cosine = learning_rate_factor("cosine", 100)
    factors = [cosine(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.2)
    assert max(factors) == factors[4] == 1
    assert factors[99] == pytest.approx(0.01, abs=2e-3)
    assert learning_rate_factor("constant", 100)(50) == 1


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.fixture
def copy(calm: TrialResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("weights.pt", "checkpoint.json"):
        (folder / name).write_bytes((Path(calm.checkpoint) / name).read_bytes())
    return folder


def rehash(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "checkpoint.json").read_text())
    content = (folder / "weights.pt").read_bytes()
    manifest["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps({**manifest, **changes}))


def test_loading_never_executes_what_it_reads(copy: Path) -> None:
    (copy / "weights.pt").write_bytes(pickle.dumps({"a": Evil()}))
    rehash(copy)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(copy)
    torch.save({"a": Evil()}, copy / "weights.pt")
    rehash(copy)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(copy)
    assert not Path("executed").exists()


def test_damaged_checkpoints_are_refused_in_one_line(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no checkpoint\.json"):
        checkpoint.load(copy.parent)
    (copy / "weights.pt").write_bytes((copy / "weights.pt").read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(copy)
    rehash(copy, format=99)
    with pytest.raises(CheckpointError, match="has format 99, but this version reads 1"):
        checkpoint.load(copy)
    (copy / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(copy / "checkpoint.json")
    (copy / "weights.pt").unlink()
