"""StarDist's own model, and its star-convex head on the best-known networks.

Command: ``python -m sweep.run stardist --data FOLDER``.
Trials: 4 per seed: the official StarDist2D, and U-Net, U-Net++ and MA-Net with ResNet-152;
crops of 256 px, 32 rays, as in Vasinkova et al. 2024. Cost: the official model is small (about
1.4 million parameters) and trains in a separate process; the others cost (256/224)^2 times as much
as the same 2-class networks.
"""

from search_spaces import SearchSpace, grid
from search_spaces.paper import PAPER

STAR = {**PAPER, "task": "stardist", "crop_size": 256, "loss": "stardist"}

SPACE = SearchSpace(
    trials=(
        *grid(architecture="StarDist", **{**STAR, "learning_rate": 3e-4}),
        *grid({"architecture": ["Unet", "UnetPlusPlus", "MAnet"]}, encoder="resnet152", **STAR),
    ),
)
