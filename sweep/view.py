"""What one sees while a sweep runs: a live table, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

HEARTBEAT_SECONDS = 60.0
REDRAW_SECONDS = 0.25


@dataclass
class TrialState:
    """One trial as it stands."""

    trial_id: str
    name: str
    status: str = "waiting"
    epoch: int = 0
    epochs: int = 0
    val_dataset_iou: float | None = None
    seconds: float = 0.0
    """Spent in this run of the sweep."""
    epochs_here: int = 0
    """Epochs trained in this run of the sweep."""
    error: str = ""


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

    Mean seconds per epoch so far, times the epochs that are left, over the trials that run at
    once; not less than the longest running trial still needs. None before the first epoch.
    """
    epochs = sum(s.epochs_here for s in states)
    if not epochs:
        return None
    mean = sum(s.seconds for s in states) / epochs

    def rest(state: TrialState) -> float:
        own = state.seconds / state.epochs_here if state.epochs_here else mean
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
        Trials that run at once.
    """

    def __init__(self, console: Console, title: str, slots: int) -> None:
        self.console, self.title, self.slots = console, title, slots
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._drawn = 0.0
        self._said: dict[str, str] = {}
        self._heartbeat = self._start = time.monotonic()
        self._states: Sequence[TrialState] = ()

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        else:
            self.console.print(self.title)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.update(self._render(self._states), refresh=True)
            self._live.stop()

    def message(self, text: str) -> None:
        """Print a line above the view."""
        self.console.print(text)

    def update(self, states: Sequence[TrialState]) -> None:
        """Take note of the states; redraws at most four times a second."""
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
                self.console.print(self._line(state))
                self._heartbeat = now
        if now - self._heartbeat >= HEARTBEAT_SECONDS:
            self._heartbeat = now
            self.console.print(self._summary(states))

    def _line(self, state: TrialState) -> str:
        clock = duration(time.monotonic() - self._start)
        if state.status == "running":
            again = f" from epoch {state.epoch}" if state.epoch else ""
            return f"[{clock}] start    {state.name}{again}".replace("[", r"\[", 1)
        iou = f"  val IoU {state.val_dataset_iou:.4f}" if state.val_dataset_iou is not None else ""
        reason = f"  {state.error}" if state.error else ""
        text = f"[{clock}] {state.status:<8} {state.name}{iou}  {duration(state.seconds)}{reason}"
        return text.replace("[", r"\[")

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
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        for name, side in (("trial", "left"), ("", "left"), ("epoch", "right"),
                           ("val IoU", "right"), ("time", "right")):  # fmt: skip
            table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
        room = max(4, self.console.height - 6)
        order = {"running": 0, "failed": 1, "done": 2, "stopped": 3, "waiting": 4}
        shown = sorted(
            (s for s in states if s.status != "waiting"),
            key=lambda s: (order[s.status], -(s.val_dataset_iou or 0)),
        )
        style = {"running": "cyan", "failed": "red", "done": "green", "stopped": "yellow"}
        for s in shown[:room]:
            table.add_row(
                s.name,
                Text(s.status, style[s.status]),
                f"{s.epoch}/{s.epochs}",
                f"{s.val_dataset_iou:.4f}" if s.val_dataset_iou is not None else "",
                duration(s.seconds) if s.status != "failed" else s.error[:60],
            )
        more = [Text(f"and {len(shown) - room} more", "dim")] if len(shown) > room else []
        return Group(Text(self.title, "bold"), table, *more, Text(self._summary(states)))
