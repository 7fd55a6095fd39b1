"""What a sweep prints at its end: ranking, notes, and where the files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.leaderboard import candidates, ceilings, paper_correlation
from sweep.ledger import Ledger
from sweep.view import print_candidates, print_leaderboard
from trainables.cli import DONE, FAILED, command_line
from trainables.records.objects import address_of

TOP = 60
"""Most rows of the leaderboard on the screen."""


def print_results(
    console: Console,
    out: Path,
    rows: Sequence[dict[str, Any]],
    lacking: Mapping[str, str],
    folds: int,
    asks_for: Callable[[str], bool],
) -> int:
    """Print the ranking of all trials in a run folder, and where their files are.

    Parameters
    ----------
    console : rich.console.Console
    out : Path
        The run folder.
    rows : sequence of dict
        Rows of the leaderboard, ranked.
    lacking : mapping
        Missing results and files, by trial_id.
    folds : int
        Number of folds of the run; 0 without folds.
    asks_for : callable
        Returns for a trial_id whether the command asked for it (``--only``).

    Returns
    -------
    int
        Exit code, for the trials that the command asked for.
    """
    print_leaderboard(console, rows, top=TOP)
    if folds:
        print_candidates(console, candidates(rows, folds, Ledger(out).read_per_image), folds)
    for note in ceilings(rows):
        console.print(note, soft_wrap=True)
    rho = paper_correlation(rows)
    if rho is not None:
        console.print(f"Spearman rank correlation with the paper's Table 1: {rho:.2f}")
    console.print(f"all results are in {address_of(out)}", markup=False, soft_wrap=True)
    console.print("  leaderboard.csv  candidates.csv  history.csv  checkpoints/  sweep.log")
    asked = [row for row in rows if asks_for(row["trial_id"])]
    failed = sum(row["status"] == "failed" for row in asked)
    if failed:
        console.print(f"{failed} of {len(asked)} trials failed; add --resume to try them again")
    rest = [row for row in rows if not asks_for(row["trial_id"])]
    waiting = sum(row["status"] in ("waiting", "running") for row in rest)
    if waiting:
        console.print(
            f"{waiting} trials of this folder were left out by --only and have not ended; to run "
            "them, use --resume without --only",
            soft_wrap=True,
        )
    shown = {i: why for i, why in lacking.items() if asks_for(i)}
    for trial_id, why in shown.items():
        console.print(f"missing: {trial_id}: {why}", markup=False, soft_wrap=True)
    return FAILED if failed or shown else DONE


def print_next(console: Console, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the command that follows a sweep, if any trial is done."""
    if any(row["status"] == "done" for row in rows):
        console.print("next, find and measure single cells:", soft_wrap=True)
        console.print(f"  {command_line('analysis.run', out)}", markup=False, soft_wrap=True)
