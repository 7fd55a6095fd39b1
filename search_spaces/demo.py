"""All eight architectures with a small encoder on built-in data, and each other task once.

Command: ``python -m sweep.run demo`` (or ``make demo``).
Trials: 11 per seed: eight 2-class networks, a 3-class one, stardist's own model, and a star-convex
head. Cost: about 10 minutes on two CPU cores. It shows that everything works. Five epochs are
too few for your own images; use ``compare`` for those.
"""

from typing import Any

from search_spaces import BuiltinData, SearchSpace, grid
from trainables.config import ARCHITECTURES

# Crops of 224 px, as in the paper: networks that pool the whole view (PAN, DeepLabV3) are then
# less surprised by whole frames. Batches of 4, since steps are what a short training lacks.
DEMO: dict[str, Any] = {
    "encoder": "resnet18",
    "crop_size": 224,
    "epochs": 5,
    "batch_size": 4,
    "learning_rate": 2e-3,
    "augmentation": "light",
}

SPACE = SearchSpace(
    trials=(
        *grid({"architecture": ARCHITECTURES}, **DEMO),
        *grid(architecture="Unet", task="semantic3", **DEMO),
        # small crops for more steps: the model is small, and learns slowly without batch
        # normalisation
        *grid(architecture="StarDist", task="stardist", **{**DEMO, "crop_size": 128, "epochs": 6}),
        *grid(architecture="Unet", task="stardist", **DEMO),
    ),
    # many small fields: six each for validation and test, which are what is independent
    builtin_data=BuiltinData(sequences=30, frames=1, height=448, width=672),
)
