"""From a run folder to evidence: the table of contents of a report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, compared
from analysis.formats.trackmate import write_trackmate_objects
from analysis.runfolder import candidates, choose_candidates, unfinished
from analysis.study.comparisons import agreements, comparisons, noise_of, unit_biases
from analysis.study.objects import together
from analysis.study.study import Study
from analysis.study.tables import (
    method_table,
    score_tables,
    tied_candidates,
    validation_scores,
)
from analysis.study.trials import NewTask, analyse_trials, crop_of_networks, pictures_of
from analysis.study.truth import measure_truth
from trainables.errors import CheckpointError
from trainables.records.files import write_json, write_with
from trainables.records.manifest import library_versions

CAUTION = "intervals and p-values are not yet reliable with few units: docs/statistics.md"
"""Text in the first column of the tables that contain them."""
OBJECT_COLUMNS = ("method", "trial_id", "group", "split", "matched_label", "iou", "population")
"""Columns of ``objects.csv`` in addition to TrackMate's."""


def gather(study: Study, new_task: NewTask, command: str) -> Evidence:
    """Analyse a run.

    Parameters
    ----------
    study : Study
    new_task : callable
        Takes a description and a number of steps; returns a function to call after each step.
    command : str
        Command line of this analysis, for the record.

    Returns
    -------
    Evidence

    Raises
    ------
    CheckpointError
        When no trial can be analysed.
    """
    run, options, unit = study.run, study.options, study.options.unit
    chosen, lacking = choose_candidates(candidates(run), options.top)
    truth = measure_truth(study, new_task("true cells", len(study.items)))
    trials, failures = analyse_trials(study, chosen, truth, new_task)
    missing = [*unfinished(run), *lacking, *failures, *truth.missing()]
    if not trials:
        raise CheckpointError("; ".join(missing))
    crop, unseen = crop_of_networks(study, chosen, trials, truth.window, new_task)
    objects = together([*truth.objects, *(table for trial in trials for table in trial.objects)])
    cells = compared(objects)
    sizes = {"val": study.dataset.pixel_size_um}
    sizes[study.measurer.split] = study.measured.pixel_size_um
    scores, units = score_tables(trials, unit, study.measurer.split, sizes)
    biases = unit_biases(cells, unit=unit).assign(parameters="calibrated")
    standing = validation_scores(trials, unit)
    return Evidence(
        out=run.out,
        plan=run.plan,
        leaderboard=run.leaderboard,
        candidates=tied_candidates(run, seed=options.seed),
        history=run.history,
        methods=method_table(run, trials, standing, unit, seed=options.seed),
        standing=standing,
        scores=scores,
        units=pd.concat([units, biases], ignore_index=True),
        objects=objects,
        errors=together([table for trial in trials for table in trial.errors]),
        statistics=comparisons(
            cells,
            unit=unit,
            convention=options.convention,
            resamples=options.resamples,
            seed=options.seed,
        ),
        agreement=agreements(cells, unit=unit),
        noise=noise_of(cells, options.convention, seed=options.seed),
        crop=crop,
        pictures=pictures_of(trials, truth),
        missing=[*missing, *unseen],
        settings=_record(study, command),
    )


def _record(study: Study, command: str) -> dict[str, Any]:
    dataset, measured = study.dataset, study.measured
    return {
        **study.options.__dict__,
        "pixel_size_um": measured.pixel_size_um,
        "data": str(dataset.root),
        "fingerprint": dataset.fingerprint,
        "measured_data": str(measured.root),
        "measured_fingerprint": measured.fingerprint,
        "command": command,
        "versions": library_versions("scikit-image", "scipy", "pandas", "stardist", "optuna"),
    }


def write_tables(evidence: Evidence, report: Path) -> None:
    """Write the evidence's tables into the report's folder."""
    report.mkdir(parents=True, exist_ok=True)
    write_with(report / "objects.parquet", evidence.objects.to_parquet)
    if len(evidence.objects):
        write_trackmate_objects(
            evidence.objects,
            report / "objects.csv",
            pixel_size_um=evidence.settings.get("pixel_size_um"),
            extra=OBJECT_COLUMNS,
        )
    for name in ("methods", "scores", "units", "errors", "statistics", "agreement", "noise"):
        table: pd.DataFrame = getattr(evidence, name).copy()
        if name in ("statistics", "agreement"):
            table.insert(0, "caution", CAUTION)
        write_with(report / f"{name}.csv", partial(table.to_csv, index=False))
    write_json(report / "settings.json", {**evidence.settings, "missing": evidence.missing})
