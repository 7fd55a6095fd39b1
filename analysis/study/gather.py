"""From a run folder to evidence: the table of contents of a report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.evidence import Evidence, compared
from analysis.runfolder import candidates, choose_candidates, unfinished
from analysis.spread import Here, Spread
from analysis.study.comparisons import agreements, comparisons, noise_of, unit_biases
from analysis.study.effects import population_effects
from analysis.study.films import frames_of
from analysis.study.given_labels import measure_given
from analysis.study.objects import together
from analysis.study.study import Study
from analysis.study.tables import (
    method_table,
    score_tables,
    tied_candidates,
    validation_scores,
)
from analysis.study.trials import (
    AnalysedTrial,
    GivenTrial,
    NewTask,
    analyse_trials,
    crop_of_networks,
    pictures_of,
)
from analysis.study.truth import measure_truth
from analysis.study.unlabelled import unlabelled
from trainables.errors import CheckpointError
from trainables.records.manifest import library_versions
from trainables.records.objects import address_of


def gather(study: Study, new_task: NewTask, command: str, spread: Spread | None = None) -> Evidence:
    """Analyse a run.

    Parameters
    ----------
    study : Study
    new_task : callable
        Takes a description and a number of steps; returns a function to call after each step.
    command : str
        Command line of this analysis, for the record.
    spread : Spread, optional
        Where networks predict; in this process unless given.

    Returns
    -------
    Evidence

    Raises
    ------
    CheckpointError
        When no trial can be analysed.
    """
    run, options, unit = study.run, study.options, study.options.unit
    spread = Here() if spread is None else spread
    chosen, lacking = choose_candidates(candidates(run), options.top)
    truth = measure_truth(study, new_task("true cells", len(study.items)))
    trials, failures = analyse_trials(study, chosen, truth, new_task, spread)
    missing = [*unfinished(run), *lacking, *failures, *truth.missing()]
    if not trials:
        raise CheckpointError("; ".join(missing))
    crop, unseen = crop_of_networks(study, chosen, trials, truth.window, new_task, spread)
    given = measure_given(study, study.given, truth, new_task)
    sources: list[AnalysedTrial | GivenTrial] = [*trials, *given]
    objects = together([*truth.objects, *(table for one in sources for table in one.objects)])
    cells = compared(objects)
    sizes = {"val": study.dataset.pixel_size_um}
    sizes[study.measurer.split] = study.measured.pixel_size_um
    scores, units = score_tables(trials, unit, study.measurer.split, sizes, given)
    biases = unit_biases(cells, unit=unit).assign(parameters="calibrated")
    standing = validation_scores(trials, unit)
    methods = method_table(run, trials, standing, unit, seed=options.seed)
    without_masks, undone = unlabelled(study, methods, new_task, spread)
    return Evidence(
        out=run.out,
        plan=run.plan,
        leaderboard=run.leaderboard,
        candidates=tied_candidates(run, seed=options.seed),
        history=run.history,
        methods=methods,
        standing=standing,
        scores=scores,
        units=pd.concat([units, biases], ignore_index=True),
        objects=objects,
        errors=together([table for one in sources for table in one.errors]),
        frames=frames_of(study.measured),
        statistics=comparisons(
            cells,
            unit=unit,
            convention=options.convention,
            recommended=str(methods["method"].iloc[0]),
            annotator=options.annotator,
            resamples=options.resamples,
            seed=options.seed,
        ),
        effects=population_effects([t for one in (truth, *sources) for t in one.remeasured], unit),
        agreement=agreements(cells, unit=unit),
        noise=noise_of(cells, options.convention, seed=options.seed),
        crop=crop,
        pictures=pictures_of(sources, truth),
        missing=[
            *missing,
            *unseen,
            *(note for one in study.given for note in one.note()),
            *undone,
        ],
        settings=_record(study, command),
        given=[one.name for one in given],
        unlabelled=without_masks,
    )


def _record(study: Study, command: str) -> dict[str, Any]:
    dataset, measured = study.dataset, study.measured
    sequence = study.unlabelled
    return {
        **study.options.__dict__,
        "pixel_size_um": measured.pixel_size_um,
        "frame_interval_s": measured.frame_interval_s,
        "data": address_of(dataset.root),
        "fingerprint": dataset.fingerprint,
        "measured_data": address_of(measured.root),
        "measured_fingerprint": measured.fingerprint,
        "labels": {one.name: str(one.folder) for one in study.given},
        **({} if sequence is None else {"unlabelled": str(sequence.path)}),
        "command": command,
        "versions": library_versions("scikit-image", "scipy", "pandas", "stardist", "optuna"),
    }
