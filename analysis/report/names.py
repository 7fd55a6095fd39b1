"""What readers of the report call things."""

from __future__ import annotations

TASK_NAMES = {"semantic2": "2 classes", "semantic3": "3 classes", "stardist": "StarDist"}
TASKS = tuple(TASK_NAMES)
"""In the order of the page."""


def task_name(task: str) -> str:
    """Return what a reader calls a task; one that is not ours keeps its name."""
    return TASK_NAMES.get(task, task)
