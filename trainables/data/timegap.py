"""How many frames of a time-lapse stay unused between blocks of training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STILL = 0.8
"""Correlation of thumbnails above which two frames show the same cells in the same places."""
LEVEL = np.exp(-1)
"""Frames correlate as long as this fraction remains of what neighbours have in common beyond any two
frames of the sequence: the usual definition of a correlation time."""
LEAST_EXCESS = 0.05
"""Neighbours with less than this in common beyond any two frames do not correlate."""
LEAST_FRAMES = 6
"""With fewer frames than this, one does not see where the correlation ends, and there is no gap."""
LARGEST_SHARE = 6
"""Largest fraction of a sequence for a gap chosen automatically: two gaps leave two thirds."""


class Gap(NamedTuple):
    """Frames to leave unused between two blocks."""

    frames: int
    wanted: int
    """The gap that the correlation needs; more than `frames` if a sequence is too short."""
    still: float
    """Median correlation of frames that are far apart in time."""
    too_few: bool = False
    """Whether the sequences have too few frames to see over how many of them neighbours correlate."""


def choose_gap(sequences: Mapping[str, Sequence[NDArray[np.float32]]]) -> Gap:
    """Choose the gap from the number of frames over which neighbours correlate.

    Parameters
    ----------
    sequences : mapping
        Name to thumbnails in the order of time: (h, w) float32 arrays of mean 0 and standard
        deviation 1, as `trainables.data.pixelcheck.thumbnail` gives them.

    Returns
    -------
    Gap
        One for all sequences; the shortest of them limits it.
    """
    correlation = _by_lag(list(sequences.values()))
    shortest = min((len(frames) for frames in sequences.values()), default=0)
    if not correlation:
        return Gap(0, 0, 0.0)
    if len(correlation) + 1 < LEAST_FRAMES:
        wanted = len(correlation) if correlation[0] > STILL else 0
        return Gap(0, wanted, correlation[-1], too_few=True)
    far = float(np.median(correlation[-(len(correlation) // 3) :]))
    excess = np.array(correlation) - far
    wanted = 0
    if excess[0] > LEAST_EXCESS:
        wanted = int(np.argmax(excess <= LEVEL * excess[0]))
    return Gap(min(wanted, shortest // LARGEST_SHARE), wanted, far)


def _by_lag(sequences: Sequence[Sequence[NDArray[np.float32]]]) -> list[float]:
    """Return the median correlation of frames 1, 2, ... apart, over all sequences."""
    found: dict[int, list[float]] = {}
    for frames in sequences:
        if len({frame.shape for frame in frames}) != 1:
            continue  # not one field
        flat = np.stack([frame.ravel() for frame in frames]).astype(np.float64)
        table = flat @ flat.T / flat.shape[1]
        for lag in range(1, len(frames)):
            found.setdefault(lag, []).extend(np.diagonal(table, lag))
    return [float(np.median(found[lag])) for lag in sorted(found)]


def gap_notes(gap: Gap, unused: int) -> list[str]:
    """Say which frames are left out and why.

    Parameters
    ----------
    gap : Gap
    unused : int
        Frames left out in all.
    """
    notes = []
    if gap.wanted > gap.frames:
        left_out = f"{_frames(gap.frames)} left out between two blocks ({unused} in all)"
        notes.append(
            f"blocks of time: frames correlate over {_frames(gap.wanted)}, and the sequence is too "
            f"short for such gaps; {left_out if gap.frames else 'there is no gap'}. Validation and "
            "test scores will be too good. Use more frames, or a longer gap with --set gap_frames=N"
        )
    elif gap.too_few:
        notes.append(
            f"blocks of time: sequences of fewer than {LEAST_FRAMES} frames do not show over how "
            "many frames neighbours correlate; there is no gap between blocks, and validation and "
            "test scores may be too good. Use more frames, or set a gap with --set gap_frames=N"
        )
    elif gap.frames:
        notes.append(
            f"blocks of time: {gap.frames} frames between two blocks ({unused} frames in all) are "
            "not used, because frames this close correlate (--set gap_frames=N changes the number)"
        )
    if gap.still > STILL:
        notes.append(
            "blocks of time: much of the image does not move (frames far apart correlate at "
            f"{gap.still:.2f}), so validation and test frames show what was trained on, and their "
            "scores will be too good. Use other fields for validation and test"
        )
    return notes


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"
