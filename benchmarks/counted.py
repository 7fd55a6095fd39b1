"""Networks that count their own training steps, for `benchmarks/chaos.py`.

A network keeps the number of its steps among its weights, so that it is saved and restored with
them, and appends each step to a file. What was computed twice is then known from those who
computed it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

SPACE = """
from search_spaces import BuiltinData, SearchSpace, grid
SPACE = SearchSpace(
    trials=grid(
        {{"architecture": ["chaosnet:net%d" % number for number in range({trials})]}},
        encoder="none", crop_size=64, batch_size=2, epochs={epochs}, learning_rate=2e-3,
        augmentation="light",
    ),
    builtin_data=BuiltinData(sequences=8, frames=1, height=192, width=224),
)
"""
NETWORK = """
import os, time, uuid
import torch
from torch import nn

class Counted(nn.Module):
    def __init__(self, name, width, classes):
        super().__init__()
        self.name, self.instance = name, uuid.uuid4().hex[:8]
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1),
        )

    def forward(self, images):
        if self.training:
            self.steps += 1
            if type(images) is torch.Tensor:  # not while memory is estimated
                time.sleep({pause})
                line = f"{{self.name}} {{self.instance}} {{os.getpid()}} {{int(self.steps)}} "
                with open({record!r}, "a") as handle:
                    handle.write(f"{{line}}{{time.time()}}\\n")
        return self.layers(images)
"""
BUILDER = """
def {name}(encoder, in_channels, classes, encoder_weights=None):
    return Counted({name!r}, {width}, classes)
"""


class Step(NamedTuple):
    """One training step, as its worker recorded it."""

    trial: str
    instance: str
    pid: int
    number: int
    time: float


def write_space(folder: Path, record: Path, trials: int, epochs: int, pause: float) -> None:
    """Write a search space, and the networks that it names.

    Parameters
    ----------
    folder : Path
    record : Path
        File to which the networks append their steps.
    trials, epochs : int
        Number of networks, and epochs of each.
    pause : float
        Seconds that every step waits, so that epochs are long without much computing.
    """
    (folder / "space.py").write_text(SPACE.format(trials=trials, epochs=epochs))
    builders = [BUILDER.format(name=f"net{i}", width=8 + i) for i in range(trials)]
    code = NETWORK.format(record=str(record), pause=pause)
    (folder / "chaosnet.py").write_text("".join([code, *builders]))


def read_steps(record: Path) -> list[Step]:
    """Return all recorded steps in order; the line of a killed process may be cut short."""
    steps = []
    for line in record.read_text().splitlines() if record.exists() else []:
        words = line.split()
        if len(words) == 5:
            steps.append(Step(words[0], words[1], int(words[2]), int(words[3]), float(words[4])))
    return steps


def repeated(steps: list[Step], per_epoch: float) -> list[float]:
    """Return, for each attempt that continued a trial, how many epochs it computed once more."""
    again = []
    by_trial = defaultdict[str, list[Step]](list)
    for step in steps:
        by_trial[step.trial].append(step)
    for its in by_trial.values():
        furthest, seen = 0, set[str]()
        for step in its:
            if step.instance not in seen and seen:
                again.append((furthest - step.number + 1) / per_epoch)
            seen.add(step.instance)
            furthest = max(furthest, step.number)
    return again
