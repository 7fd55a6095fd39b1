"""All eight architectures on your own images: a medium-sized encoder, and enough epochs to decide.

Command: ``python -m sweep.run compare --data FOLDER``.
Trials: 12 per seed: eight 2-class networks with ResNet-34, U-Net and U-Net++ with 3 classes, the
official StarDist, and a star-convex head; crops of 224 px, 60 epochs. Encoders start at random;
``--set encoder_weights=pretrained`` starts them from weights trained on ImageNet-1k.
Cost, by ``--plan``, for 40 images of 1024x1024 pixels (24 of them for training, 600 crops an
epoch): on one GPU 13 minutes (A100), about an hour (RTX 3090) or 2 h 30 min (T4); on a laptop of 8
cores with 32 GB of memory 5 h 20 min (processors that compute in bfloat16) or 10 h 40 min (others);
on 4 cores with 16 GB, or on two cores that compute in bfloat16, 13 hours. Validation adds about a
tenth. Twice the images take twice as long.
"""

from typing import Any

from search_spaces import SearchSpace, grid
from trainables.config import ARCHITECTURES

COMPARE: dict[str, Any] = {
    "encoder": "resnet34",
    "crop_size": 224,
    "epochs": 60,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "augmentation": "medium",
    "validate_every": 2,
}

SPACE = SearchSpace(
    trials=(
        *grid({"architecture": ARCHITECTURES}, **COMPARE),
        *grid({"architecture": ["Unet", "UnetPlusPlus"]}, task="semantic3", **COMPARE),
        *grid(architecture="StarDist", task="stardist", **{**COMPARE, "learning_rate": 3e-4}),
        *grid(architecture="Unet", task="stardist", **COMPARE),
    ),
)
