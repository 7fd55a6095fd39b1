"""All eight architectures with one small encoder on the built-in data.

Command: ``python -m sweep.run demo`` (or ``make demo``).
Trials: 8 per seed. Cost: about 5 minutes on two CPU cores.
With your own images: ``python -m sweep.run demo --data FOLDER``.
"""

from search_spaces import BuiltinData, SearchSpace, grid
from trainables.config import ARCHITECTURES

SPACE = SearchSpace(
    trials=grid(
        {"architecture": ARCHITECTURES},
        encoder="resnet18",
        crop_size=224,
        epochs=5,
        batch_size=4,
        learning_rate=2e-3,
        augmentation="light",
    ),
    builtin_data=BuiltinData(sequences=6, frames=1),
)
