"""The display while a sweep runs: a live table, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.leaderboard import SETTING_COLUMNS
from trainables.names import network_name

HEARTBEAT_SECONDS = 60.0
REDRAW_SECONDS = 0.25


@dataclass
class TrialState:
    """The present state of one trial."""

    trial_id: str
    name: str
    status: str = "waiting"
    epoch: int = 0
    epochs: int = 0
    val_dataset_iou: float | None = None
    train_loss: float | None = None
    seconds: float = 0.0
    """Training time in this session of the sweep."""
    epochs_here: int = 0
    """Epochs trained in this session of the sweep; if 0 (not counted), all epochs count."""
    error: str = ""
    within: bool = False
    """Whether it began from a state that was saved within the epoch after `epoch`."""

    @property
    def timed_epochs(self) -> int:
        """Number of epochs that `seconds` belong to."""
        return self.epochs_here or (self.epoch if self.seconds else 0)


def trial_name(architecture: str, encoder: str, task: str, seed: Any, fold: Any) -> str:
    """Return the name of a trial on the screen.

    Examples
    --------
    >>> trial_name("Unet", "resnet18", "semantic2", 0, None)
    'U-Net, ResNet-18, 2-class, seed 0'
    """
    in_fold = "" if fold in (None, "") else f", fold {fold}"
    return f"{network_name(architecture, encoder, task)}, seed {seed}{in_fold}"


def duration(seconds: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``.

    Examples
    --------
    >>> duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_left(states: Sequence[TrialState], slots: int) -> float | None:
    """Estimate the seconds until all trials have ended.

    The mean time per epoch so far times the remaining epochs, divided by the number of trials that
    run at once; but at least the time that the longest running trial still needs. None before the
    first epoch.
    """
    epochs = sum(s.timed_epochs for s in states)
    if not epochs:
        return None
    mean = sum(s.seconds for s in states) / epochs

    def rest(state: TrialState) -> float:
        own = state.seconds / state.timed_epochs if state.timed_epochs else mean
        return own * max(0, state.epochs - state.epoch)

    open_states = [s for s in states if s.status in ("waiting", "running")]
    running = [rest(s) for s in open_states if s.status == "running"]
    return max([sum(map(rest, open_states)) / max(1, slots), *running], default=0.0)


class View:
    """Shows the states of a sweep's trials; a context manager.

    Parameters
    ----------
    console : rich.console.Console
    title : str
    slots : int
        Number of trials that run at once.
    on_message : callable
        Also called with every message.

    Attributes
    ----------
    below : list of str
        Further lines below the table and, without a terminal, after each summary.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        slots: int,
        on_message: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.console, self.title, self.slots = console, title, slots
        self._on_message = on_message
        self.below: list[str] = []
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._drawn = 0.0
        self._said: dict[str, str] = {}
        self._heartbeat = self._start = time.monotonic()
        self._states: Sequence[TrialState] = ()

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        else:
            self._say(self.title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            # the table gives way to one line: what comes next on the screen is the ranking
            self._live.update(Text(f"{self.title}: {self._summary(self._states)}"), refresh=True)
            self._live.stop()

    def _say(self, text: str) -> None:
        # error messages may hold brackets, which rich would take for markup
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print a line above the view."""
        self._say(text)
        self._on_message(text)

    def began(self, seconds: float) -> None:
        """Count time from this many seconds ago, for a sweep that another process runs."""
        self._start = time.monotonic() - seconds

    def known(self, states: Sequence[TrialState]) -> None:
        """Take states as known: without a terminal, print a summary and only later changes."""
        self._states = states
        self._said = {state.trial_id: state.status for state in states}
        if not self._live:
            self._say_summary(states)

    def update(self, states: Sequence[TrialState]) -> None:
        """Show new states, at most four times a second."""
        self._states = states
        now = time.monotonic()
        if self._live:
            if now - self._drawn >= REDRAW_SECONDS:
                self._drawn = now
                self._live.update(self._render(states), refresh=True)
            return
        for state in states:
            if self._said.get(state.trial_id, "waiting") != state.status:
                self._said[state.trial_id] = state.status
                self._say(self._line(state))
                self._heartbeat = now
        if now - self._heartbeat >= HEARTBEAT_SECONDS:
            self._heartbeat = now
            self._say_summary(states)

    def _say_summary(self, states: Sequence[TrialState]) -> None:
        for text in (self._summary(states), *self.below):
            self._say(text)

    def _line(self, state: TrialState) -> str:
        clock = duration(time.monotonic() - self._start)
        if state.status == "running":
            again = f" from epoch {state.epoch + 1}" if state.epoch or state.within else ""
            again += ", which was begun before" if state.within else ""
            return f"[{clock}] start    {state.name}{again}"
        iou = f"  val IoU {state.val_dataset_iou:.4f}" if state.val_dataset_iou is not None else ""
        reason = f"  {state.error}" if state.error else ""
        return f"[{clock}] {state.status:<8} {state.name}{iou}  {duration(state.seconds)}{reason}"

    def _summary(self, states: Sequence[TrialState]) -> str:
        count = Counter(s.status for s in states)
        parts = [
            f"{count[name]} {name}"
            for name in ("done", "stopped", "failed", "running", "waiting")
            if count[name] or name == "done"
        ]
        left = time_left(states, self.slots)
        running = count["running"] + count["waiting"]
        eta = f", about {duration(left)} left" if left is not None and running else ""
        return f"{duration(time.monotonic() - self._start)}  {', '.join(parts)}{eta}"

    def _render(self, states: Sequence[TrialState]) -> RenderableType:
        table = Table(box=None, padding=(0, 1, 0, 0), show_header=True, header_style="dim")
        table.add_column("trial", no_wrap=True, overflow="ellipsis")
        table.add_column("", no_wrap=True)
        for name in ("epoch", "loss", "val IoU", "time"):
            table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis")
        order = {"running": 0, "done": 1, "stopped": 2}
        style = {"running": "cyan", "done": "green", "stopped": "yellow"}
        shown = sorted(
            (s for s in states if s.status in order),
            key=lambda s: (order[s.status], -(s.val_dataset_iou or 0)),
        )
        # reasons are long: a line each below the table, the latest trials' last
        failed = [s for s in states if s.status == "failed"][-3:]
        room = max(4, self.console.height - 6 - len(failed) - len(self.below))
        for s in shown[:room]:
            table.add_row(
                Text(_shortened(s.name, self.console.width - FIGURES_WIDTH)),
                Text(s.status, style[s.status]),
                f"{s.epoch}/{s.epochs}",
                _number(s.train_loss, ".4f"),
                _number(s.val_dataset_iou, ".4f"),
                duration(s.seconds),
            )
        more = [Text(f"and {len(shown) - room} more", "dim")] if len(shown) > room else []
        reasons = [Text(f"failed: {s.name}: {s.error}", "red") for s in failed]
        title, summary = Text(self.title, "bold"), Text(self._summary(states))
        below = [Text(line, "dim") for line in self.below]
        for line in (title, *reasons, summary, *below):
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(title, table, *more, *reasons, summary, *below)


FIGURES_WIDTH = 42
"""Of a trial's status, epochs, loss, IoU and time on the screen, with the spaces between them."""


def _shortened(name: str, width: int) -> str:
    """Cut a long name in its middle, since seeds are at the end.

    Examples
    --------
    >>> _shortened("DeepLabV3+, ResNeXt-101 32x32d, 3-class, seed 0", 38)
    'DeepLabV3+, ResNeXt-…, 3-class, seed 0'
    """
    end = min(17, width // 2)
    return name if len(name) <= width else f"{name[: width - end - 1]}…{name[-end:]}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return ranked rows as a table of at most 80 columns, without failed trials.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of leaderboard.csv as values, best first; unknown values are None. Seed and inference
        get a column if they differ, and so do other settings if trials differ in nothing else.
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("architecture", "encoder", "task", "seed"))
        alike.setdefault(key, []).append(row)
    apart = [
        name
        for name in SETTING_COLUMNS
        if any(len({row.get(name) for row in same}) > 1 for same in alike.values())
    ]
    optional = (*dict.fromkeys(("seed", *apart)), "inference")
    names = [k for k in optional if len({row.get(k) for row in rows}) > 1]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("network", overflow="fold")
    for name in names:
        # rich shortens only columns that may wrap: words, never figures
        table.add_column(name, overflow="ellipsis", no_wrap=name == "seed")
    for name in ("val\nIoU", "test\nIoU", "epochs", "time", "M\nparams"):
        table.add_column(name, justify="right", no_wrap=True)
    number = 0
    for row in rows:
        state, seconds = row["status"], row["train_seconds"]
        if state == "failed":
            continue
        # trials of folds have other validation images each: only candidates are ranked
        ranked = state == "done" and row.get("fold") is None
        number += ranked
        table.add_row(
            str(number) if ranked else "",
            Text(network_name(row["architecture"], row["encoder"] or "", row["task"])),
            *(Text("" if row.get(name) is None else str(row.get(name))) for name in names),
            _number(row["val_dataset_iou"], ".4f") or state,
            _number(row["test_dataset_iou"], ".4f") or (state if state == "stopped" else ""),
            _number(row["epochs"], "d"),
            duration(seconds) if seconds is not None else "",
            _number(row["parameters_m"], ".1f"),
        )
    return table


def candidates_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Return candidates, whose folds were put together, as a table.

    Parameters
    ----------
    lines : sequence of mapping
        Rows of candidates.csv as values, best first; unknown values are None. Settings get a column
        if they tell candidates of the same name apart.
    """
    names = [
        name
        for name in SETTING_COLUMNS
        if name in lines[0] and name not in ("architecture", "encoder", "task")
        if len({line[name] for line in lines}) > 1
    ]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("network", overflow="fold")
    for name in names:
        table.add_column(name, overflow="ellipsis")
    for name in ("seeds", "val\nIoU", "SD", "test\nIoU"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("missing folds", overflow="fold")
    for number, line in enumerate(lines, 1):
        table.add_row(
            str(number) if line["seeds"] else "",
            Text(network_name(line["architecture"], line["encoder"] or "", line["task"])),
            *(Text("" if line[name] is None else str(line[name])) for name in names),
            str(line["seeds"]),
            *(
                _number(line[name], ".4f")
                for name in (
                    "val_dataset_iou_mean",
                    "val_dataset_iou_sd",
                    "test_dataset_iou_mean",
                )
            ),
            line["missing_folds"],
        )
    return table


def print_candidates(console: Console, lines: Sequence[Mapping[str, Any]], folds: int) -> None:
    """Print the candidates of a run with folds, best first."""
    if not lines:
        return
    console.print(
        f"Candidates, the {folds} folds of each seed put together (trials of different folds have "
        "different validation images: compare candidates, not trials):",
        soft_wrap=True,
    )
    console.print(candidates_table(lines), soft_wrap=False)


def print_leaderboard(
    console: Console, rows: Sequence[Mapping[str, Any]], top: int | None = None
) -> None:
    """Print ranked rows as a table, then the failed trials with the reasons.

    Parameters
    ----------
    console : rich.console.Console
    rows : sequence of mapping
        See `leaderboard_table`.
    top : int, optional
        Largest number of rows; all failed trials are listed in any case.
    """
    shown = [row for row in rows if row["status"] != "failed"]
    if shown:
        console.print(leaderboard_table(shown[:top]), soft_wrap=False)
    if top is not None and len(shown) > top:
        console.print(f"... and {len(shown) - top} more in leaderboard.csv")
    for row in rows:
        if row["status"] == "failed":
            text = f"failed: {row['trial_id']}: {row['error']}"
            style = "red" if console.is_terminal else None
            console.print(text, markup=False, highlight=False, style=style, soft_wrap=True)
