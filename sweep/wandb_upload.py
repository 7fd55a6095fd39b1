"""Upload missing results of a sweep to W&B: ``python -m sweep.wandb_upload OUT``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.ledger import FINAL, Ledger, LedgerError
from sweep.plan import read_plan
from sweep.request import RequestError
from sweep.runfolder import say_storage_error
from sweep.tracking import (
    Tracker,
    TrackingOptions,
    key_source,
    known_id,
    options_of,
    server,
    wandb_settings,
)
from sweep.trial import shown_config
from trainables import cli
from trainables.config import EpochRecord, TrialConfig
from trainables.records.files import fetch_all
from trainables.records.objects import place

ABOUT = (
    "Upload missing results of a sweep to W&B. Use it if W&B's server was not available, if the "
    "sweep ran without W&B, or if it was killed before everything was uploaded. All results come "
    "from the run folder; those that W&B has are not repeated."
)


def upload(out: Path) -> tuple[int, int]:
    """Upload results of ended trials that W&B lacks.

    Parameters
    ----------
    out : Path
        The run folder.

    Returns
    -------
    held, ended : int
        Number of trials that W&B now has, and number of trials that have ended.

    Raises
    ------
    RequestError
        When the folder contains no run, or there is no API key.
    """
    plan = read_plan(out)
    if plan is None:
        raise RequestError(f"there is no run in {out}; give the folder of a sweep")
    settings = wandb_settings()
    if not key_source(settings):
        raise RequestError(
            f"no API key for {server(settings)}: run wandb login or set WANDB_API_KEY"
        )
    # TensorBoard's files lie in the run folder already
    options = replace(options_of(out, plan, "online"), tensorboard=False)
    ledger = Ledger(out)
    ended = [record for record in ledger.read().values() if record["status"] in FINAL]
    held = 0
    for record in ended:
        if not _tell(options, ledger, record):
            break  # the next one would wait for the same server
        held += 1
    return held, len(ended)


def _tell(options: TrackingOptions, ledger: Ledger, record: dict[str, Any]) -> bool:
    trial_id, failed = record["trial_id"], record["status"] == "failed"
    tracker = Tracker(
        options,
        trial_id,
        shown_config(TrialConfig.model_validate(record["config"]), trial_id),
        resumed=len(record.get("attempts", [])) > 1,
        known_id=known_id(record.get("wandb_id", ""), trial_id, options),
        fall_back=False,
    )
    tracker.past(EpochRecord(**row) for row in ledger.read_history(trial_id))
    summary = {**record.get("metrics", {}), **({"error": record["error"]} if failed else {})}
    checkpoint = place(options.folder) / "checkpoints" / trial_id
    if options.artifacts:
        fetch_all(checkpoint)
    return tracker.finish(
        summary,
        failed=failed,
        checkpoint=str(checkpoint) if record["status"] == "done" else None,
    )


def _upload(arguments: argparse.Namespace, command: str) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        out = place(arguments.out).absolute()
    except ValueError as error:
        raise RequestError(str(error)) from error
    try:
        held, ended = upload(out)
    except OSError as error:
        print(say_storage_error(error, out), file=sys.stderr)
        return cli.FAILED
    address = server(wandb_settings())
    print(f"{held} of {ended} ended trials are in W&B at {address}")
    return cli.DONE if held == ended else cli.FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if W&B has all trials, 1 if not, 2 if refused, 130 if
    interrupted.
    """
    parser = cli.Parser(prog="python -m sweep.wandb_upload", description=ABOUT)
    parser.add_argument("out", metavar="OUT", help="the run folder")
    return cli.run(
        parser,
        _upload,
        argv,
        refused=(RequestError, LedgerError),
        interrupted="interrupted; run the same command again to continue",
    )


if __name__ == "__main__":
    sys.exit(main())
