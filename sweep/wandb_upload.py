"""Tell W&B what it lacks of a sweep that has run: ``python -m sweep.wandb_upload OUT``.

For trials whose server was away, for a sweep without W&B, and for what was not uploaded yet when
the sweep was killed. Everything comes from the run folder's ledger; what W&B has is not repeated.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweep.ledger import FINAL, Ledger, LedgerError
from sweep.plan import RequestError, read_plan
from sweep.storage import say_storage_error
from sweep.tracking import (
    Tracker,
    TrackingOptions,
    key_source,
    known_id,
    server,
    wandb_settings,
)
from sweep.trial import shown_config
from trainables.config import EpochRecord, TrialConfig


def upload(out: Path) -> tuple[int, int]:
    """Upload what W&B lacks of the trials that have ended.

    Parameters
    ----------
    out : Path
        The run folder.

    Returns
    -------
    told, ended : int
        How many trials W&B holds now, and how many have ended.

    Raises
    ------
    RequestError
        When the folder holds no run, or no key is known.
    """
    plan = read_plan(out)
    if plan is None:
        raise RequestError(f"there is no run in {out}")
    settings = wandb_settings()
    if not key_source(settings):
        raise RequestError(f"no key for {server(settings)}: run wandb login or set WANDB_API_KEY")
    chosen = plan["settings"]
    options = TrackingOptions(
        mode="online",
        group=plan.get("wandb_group") or out.name,
        folder=str(out),
        token=plan.get("run_token", ""),
        copied="copy_of" in plan,
        project=chosen["project"],
        entity=chosen["entity"],
        artifacts=chosen["artifacts"],
    )
    ledger = Ledger(out)
    ended = [record for record in ledger.read().values() if record["status"] in FINAL]
    told = 0
    for record in ended:
        if not _tell(options, ledger, record):
            break  # the next one would wait for the same server
        told += 1
    return told, len(ended)


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
    checkpoint = Path(options.folder, "checkpoints", trial_id)
    return tracker.finish(
        summary,
        failed=failed,
        checkpoint=str(checkpoint) if record["status"] == "done" else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when W&B holds all trials, 1 when not, 2 when refused, 130
    when interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m sweep.wandb_upload", description=__doc__)
    parser.add_argument("out", metavar="OUT", type=Path, help="the run folder")
    out = parser.parse_args(argv).out.absolute()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        told, ended = upload(out)
    except (RequestError, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(say_storage_error(error, out), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    address = server(wandb_settings())
    print(f"{told} of {ended} trials that have ended are in W&B at {address}")
    return 0 if told == ended else 1


if __name__ == "__main__":
    sys.exit(main())
