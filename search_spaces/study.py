"""The whole study of Vasinkova et al. 2024: 2-class grid, 3-class variants, StarDist.

Command: ``python -m sweep.run study --data FOLDER``.
Trials: 56 per seed: 40 of ``paper``, 12 of ``three_class``, 4 of ``stardist``. Cost: the sum of
the three; ``--plan --gpus 4xV100-32`` estimates it for your GPUs.
"""

from search_spaces import SearchSpace, paper, stardist, three_class

SPACE = SearchSpace(
    trials=(*paper.SPACE.trials, *three_class.SPACE.trials, *stardist.SPACE.trials),
)
