"""An epoch of 90 crops: ours against segmentation-models-pytorch with Lightning's defaults.

Both train U-Net/ResNet-18 on the same 224 px crops, batch 8, one thread, in turn; the ratio of the
median seconds per epoch is printed. The baseline is what a user would write first: float32,
``DataLoader`` over files with two workers, default memory format.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import segmentation_models_pytorch as smp
import tifffile
import torch

from trainables.config import RunOptions, TrialConfig
from trainables.data.dataset import open_dataset
from trainables.synthetic.dataset import generate
from trainables.train import train

EPOCHS = 3


class PlainDataset(torch.utils.data.Dataset):
    def __init__(self, items: list, count: int = 90) -> None:
        self.items, self.count = items, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.items[index % len(self.items)]
        image, labels = tifffile.imread(item.image), tifffile.imread(item.mask)
        rng = np.random.default_rng(index)
        y, x = (rng.integers(0, n - 224) for n in image.shape)
        crop = image[y : y + 224, x : x + 224].astype(np.float32)
        crop = (crop - crop.mean()) / crop.std()
        mask = labels[y : y + 224, x : x + 224] > 0
        return torch.from_numpy(crop)[None], torch.from_numpy(mask.astype(np.float32))[None]


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
        self.loss = smp.losses.DiceLoss("binary")
        self.seconds: list[float] = []

    def on_train_epoch_start(self) -> None:
        self.began = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds.append(time.perf_counter() - self.began)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        return self.loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), 1e-3)


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(generate(Path(folder) / "d", sequences=5, frames=1, seed=0))
        config = TrialConfig(
            encoder="resnet18", crop_size=224, batch_size=8, epochs=EPOCHS, validate_every=EPOCHS
        )
        seconds: list[float] = []
        crops = 0

        def note(record: object) -> None:
            seconds.append(record.seconds)  # type: ignore[attr-defined]

        from trainables.data.crop_positions import crop_corners
        from trainables.data.imagefiles import read_labels

        crops = sum(
            len(crop_corners(read_labels(i.mask).labels, 224)) for i in dataset.subset("train")
        )
        train(config, dataset, Path(folder) / "t", options=RunOptions(threads=1), on_epoch=note)
        ours = statistics.median(seconds[:-1]) / crops * 90  # the last epoch also validates
        module = Plain()
        loader = torch.utils.data.DataLoader(
            PlainDataset(dataset.subset("train")), batch_size=8, shuffle=True, num_workers=2
        )
        pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, loader)
    plain = statistics.median(module.seconds)
    print(f"epoch of 90 crops of 224 px: ours {ours:.1f} s, plain {plain:.1f} s")
    print(f"ratio {plain / ours:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
