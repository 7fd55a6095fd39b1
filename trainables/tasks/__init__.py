"""What a network learns, and how its output becomes foreground: one record per task.

This is the only place that defines how candidates are ranked: data-set IoU of the foreground
(any cell) against the label image's foreground, whatever the task. A further task is one file
next to these and one line in `TASKS`; its other half, from maps to single cells, is one file and
one line in `analysis.instances`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables.tasks.base import Task
from trainables.tasks.semantic2 import Semantic2
from trainables.tasks.semantic3 import Semantic3
from trainables.tasks.stardist import MOST_CALIBRATION_IMAGES, StarConvex, typical_radius

if TYPE_CHECKING:
    from trainables.config import TrialConfig

__all__ = [
    "DEFAULT_TASK",
    "MOST_CALIBRATION_IMAGES",
    "TASKS",
    "Semantic2",
    "Semantic3",
    "StarConvex",
    "Task",
    "build_task",
    "typical_radius",
]

TASKS: dict[str, type[Task]] = {
    "semantic2": Semantic2,
    "semantic3": Semantic3,
    "stardist": StarConvex,
}
"""All tasks by name."""
DEFAULT_TASK = next(iter(TASKS))
"""What a configuration that names no task means."""


def build_task(config: TrialConfig, state: Mapping[str, Any] | None = None) -> Task:
    """Make the task of a configuration.

    Parameters
    ----------
    config : TrialConfig
        Not of stardist's own model, which trains elsewhere.
    state : mapping, optional
        Result of `Task.state`.
    """
    return TASKS[config.task](config, state)


def settings_of_others(task: str) -> set[str]:
    """Return the settings that only other tasks read.

    Examples
    --------
    >>> sorted(settings_of_others("semantic2"))
    ['boundary', 'grid', 'rays']
    """
    own = set(TASKS[task].settings) if task in TASKS else set()
    return {name for one in TASKS.values() for name in one.settings} - own
