"""The 2-class grid of Vasinkova et al. 2024: eight architectures on five encoders.

Command: ``python -m sweep.run paper --data FOLDER``.
Trials: 40 per seed, 1000 epochs each on crops of 224 px with Dice loss. Cost: the paper gives 16
to 49 minutes for a trial with ResNet-152 on one V100; ``--plan --gpus 4xV100-32`` estimates it
for your GPUs. Encoders start at random. ``--set encoder_weights=pretrained`` starts them
from weights trained on ImageNet-1k. ResNeXt-101 32x32d has none (only ``instagram``), so leave it
out: ``--set encoder=inceptionresnetv2,resnest269,resnet152,vgg19``.
"""

from typing import Any

from search_spaces import SearchSpace, grid
from trainables.config import ARCHITECTURES, PAPER_ENCODERS

PAPER: dict[str, Any] = {
    "encoder_weights": "none",
    "crop_size": 224,
    "epochs": 1000,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "loss": "dice",
    "augmentation": "light",
    "validate_every": 5,
    "early_stopping": None,
}
"""Settings that all trials of the study share."""

SPACE = SearchSpace(
    trials=grid({"architecture": ARCHITECTURES, "encoder": PAPER_ENCODERS}, **PAPER),
)
