"""Cell, boundary, background: the 3-class variants of Vasinkova et al. 2024.

Command: ``python -m sweep.run three_class --data FOLDER``.
Trials: 12 per seed: all eight architectures with ResNet-152, and U-Net++ with the other four
encoders; 1000 epochs each. Cost: the same as for 2-class trials.
"""

from search_spaces import SearchSpace, grid
from search_spaces.paper import PAPER
from trainables.config import ARCHITECTURES, PAPER_ENCODERS

ENCODER = "resnet152"

SPACE = SearchSpace(
    trials=(
        *grid({"architecture": ARCHITECTURES}, encoder=ENCODER, task="semantic3", **PAPER),
        *grid(
            {"encoder": [name for name in PAPER_ENCODERS if name != ENCODER]},
            architecture="UnetPlusPlus",
            task="semantic3",
            **PAPER,
        ),
    ),
)
