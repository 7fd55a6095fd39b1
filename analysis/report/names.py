"""What readers of the report call things."""

from __future__ import annotations

from trainables.tasks import TASKS

TASK_ORDER = tuple(TASKS)
"""Of panels, maps and figures on the page."""
TASK_NAMES = {"semantic2": "2 classes", "semantic3": "3 classes", "stardist": "StarDist"}


def task_name(task: str) -> str:
    """Return what a reader calls a task; a task that has no other name is called by its own."""
    return TASK_NAMES.get(task, task)
