"""Hyperparameters of the best-known networks: Optuna draws trials, ASHA stops some early.

Command: ``python -m sweep.run hpo --data FOLDER`` (``--set samples=100`` draws more).
Trials: 40, of which ASHA stops about two in three early; crops of 224 px, at most 200 epochs.
Cost: about as much as 15 full trials. The ranges are in ``DIMENSIONS``; ``--set loss=dice`` fixes
one, ``--set loss=dice,focal`` draws from these two (see docs/searching.md).
"""

from search_spaces import SearchSpace, grid

DIMENSIONS = {
    "architecture": ["Unet", "UnetPlusPlus", "MAnet", "Linknet"],
    "encoder": ["resnet34", "resnet152", "vgg19"],
    "learning_rate": ("loguniform", 3e-5, 3e-3),
    "weight_decay": ("loguniform", 1e-6, 1e-2),
    "loss": [
        "dice",
        "jaccard",
        "focal",
        "tversky",
        "lovasz",
        "cross_entropy",
        "dice_cross_entropy",
    ],
    "augmentation": ["none", "light", "medium", "strong"],
    "batch_size": [4, 8, 16],
}

SPACE = SearchSpace(
    trials=grid(architecture="Unet", encoder="resnet34", crop_size=224, epochs=200),
    settings={"search": "optuna", "scheduler": "asha", "samples": 40, "grace_epochs": 10},
    dimensions=DIMENSIONS,
)
