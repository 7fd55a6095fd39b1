"""stardist's own model is stopped within an epoch, and continues there.

Its process is the real one; as it starts it reads a ``sitecustomize.py`` that writes down its
batches and validation images, and asks for a stop at one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.patching import patch_when_imported
from trainables.config import RunOptions, TrialConfig, TrialResult
from trainables.data.dataset import open_dataset
from trainables.errors import Paused
from trainables.stardist.client import train_stardist

CONFIG = TrialConfig(
    task="stardist",
    architecture="StarDist",
    crop_size=64,
    epochs=2,
    batch_size=4,
    learning_rate=1e-3,
    rays=16,
    augmentation="light",
)
SCRIPT = """
import os

def patch(module):
    from pathlib import Path
    from trainables.records import stops
    stops.LOOK_SECONDS = stops.COST = 0.0

    def note(trial, what):
        with open(os.environ["SEEN"], "a") as handle:
            handle.write(what + "\\n")
        if what == os.environ["ASK"]:
            stops.ask(Path(trial.options.stop_file), stops.STEP)

    class Trial(module.Trial):
        def _batches(self, epoch, first):
            for number, batch in enumerate(super()._batches(epoch, first), first + 1):
                note(self, f"batch {epoch + 1} {number}")
                yield batch

        def _loss(self, model, number, *pair):
            epoch = len(self.progress.history.records) + 1
            note(self, f"image {epoch} {number}")
            return super()._loss(model, number, *pair)

    module.Trial = Trial
"""


def figures(result: TrialResult) -> list[tuple[Any, ...]]:
    epochs = [(r.epoch, r.train_loss, r.val_loss, r.val_dataset_iou) for r in result.history]
    return [*epochs, (result.best_epoch, result.test_dataset_iou, result.test_image_iou)]


@pytest.mark.slow
def test_stopped_within_an_epoch_equals_undisturbed(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, stop, folder = open_dataset(tiny_dataset), tmp_path / "stop", tmp_path / "t"
    calm = train_stardist(CONFIG, dataset, tmp_path / "calm")
    patch_when_imported(tmp_path, "trainables.stardist.training", SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))

    def go_on(ask: str) -> TrialResult:
        stop.unlink(missing_ok=True)
        monkeypatch.setenv("ASK", ask)
        options = RunOptions(stop_file=str(stop))
        return train_stardist(CONFIG, dataset, folder, options=options)

    stopped = ["batch 1 2", "image 1 0", "batch 2 1", "image 2 1"]
    states = [(0, 2), (0, 3), (1, 1), (1, 3)]
    for ask, (epochs, batches) in zip(stopped, states, strict=True):
        with pytest.raises(Paused):
            go_on(ask)
        seen = (tmp_path / "seen").read_text().splitlines()
        assert seen[-1] == ask, "it stops there"
        assert (folder / f"resume-{epochs:05d}-{batches:07d}.npz").exists()
    assert figures(go_on("")) == figures(calm)
    seen = [line for line in (tmp_path / "seen").read_text().splitlines() if "batch" in line]
    assert seen == [f"batch {epoch} {number}" for epoch in (1, 2) for number in (1, 2, 3)]
