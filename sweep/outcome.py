"""What is said when a sweep has ended: ranking, whereabouts, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.leaderboard import ceilings, paper_correlation
from sweep.view import print_leaderboard
from trainables.cli import DONE, FAILED, command_line


def say_result(
    console: Console,
    out: Path,
    rows: Sequence[dict[str, Any]],
    asks_for: Callable[[str], bool] = lambda trial_id: True,
    missing: Mapping[str, str] | None = None,
) -> int:
    """Print ranking and whereabouts; return the exit code.

    Parameters
    ----------
    console : rich.console.Console
    out : Path
    rows : sequence of dict
        Of the leaderboard: all trials of the folder are shown.
    asks_for : callable
        Says of a trial_id whether the request asked for it (``--only``): those make the exit code.
    missing : mapping, optional
        trial_id to what of its result should be there and is not: as bad as a failed trial.
    """
    print_leaderboard(console, rows, top=60)
    for note in ceilings(rows):
        console.print(note, soft_wrap=True)
    rho = paper_correlation(rows)
    if rho is not None:
        console.print(f"Spearman rank correlation with the paper's Table 1: {rho:.2f}")
    console.print(f"everything lies in {out}", markup=False, soft_wrap=True)
    console.print("  leaderboard.csv  candidates.csv  history.csv  checkpoints/  sweep.log")
    asked = [row for row in rows if asks_for(row["trial_id"])]
    failed = sum(row["status"] == "failed" for row in asked)
    if failed:
        console.print(f"{failed} of {len(asked)} trials failed; --resume tries them again")
    rest = [row for row in rows if not asks_for(row["trial_id"])]
    waiting = sum(row["status"] in ("waiting", "running") for row in rest)
    if waiting:
        console.print(
            f"{waiting} trials of this folder were left out by --only and have not ended: --resume "
            "without --only runs them",
            soft_wrap=True,
        )
    lost = [f"missing: {i}: {why}" for i, why in (missing or {}).items() if asks_for(i)]
    for line in lost:
        console.print(line, markup=False, soft_wrap=True)
    return FAILED if failed or lost else DONE


def say_next(console: Console, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Name the command that comes after a sweep, where a trial of it is done."""
    if any(row["status"] == "done" for row in rows):
        console.print("next, how well single cells are found and measured:", soft_wrap=True)
        console.print(f"  {command_line('analysis.run', out)}", markup=False, soft_wrap=True)
