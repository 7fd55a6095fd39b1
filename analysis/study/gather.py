"""From a run folder to evidence: calibrate, measure, compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation.calibration import BUDGET, Calibration, calibrate_checkpoint
from analysis.evaluation.prediction import foreground_probability, predict_maps
from analysis.evaluation.scores import METRICS, ImageScores, pooled, unit_members
from analysis.evaluation.selection import Selected, select
from analysis.evidence import Crop, Evidence, Picture
from analysis.instances.methods import GIVEN_BACK, make_instances, way_of
from analysis.runfolder import Candidate, Run, candidates, choose, command_of, unfinished
from analysis.statistics.pairs import RESAMPLES
from analysis.study.comparisons import agreements, comparisons, noise_of, unit_biases
from analysis.study.objects import (
    KnownCells,
    Measured,
    Variant,
    measure_trial,
    measure_truth,
)
from trainables.checkpoint import load
from trainables.config import Normalization
from trainables.data.dataset import DataSet, Item
from trainables.data.imagefiles import read_image, read_labels
from trainables.data.normalization import normalize
from trainables.errors import CheckpointError
from trainables.records.manifest import read_manifest

MOST_PICTURES = 4
"""Images in the report's viewer."""
CROP_SIDE = 224
"""Pixels of the window that is shown through every network: the paper's."""
CAUTION = "intervals and p-values are not yet reliable with few units: docs/statistics.md"
"""What the first column of tables that hold them says."""
OBJECT_COLUMNS = ("method", "trial_id", "group", "split", "matched_label", "iou", "population")
"""What ``objects.csv`` says beside TrackMate's columns."""


@dataclass(frozen=True)
class Settings:
    """How to analyse."""

    top: int = 3
    convention: str = "trackmate"
    unit: str = "group"
    flips: bool = False
    budget: int = BUDGET
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass
class _Trial:
    """What was found for one trial."""

    candidate: Candidate
    trial_id: str
    representative: bool
    calibration: Calibration
    validation: Measured
    test: Measured


Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def gather(
    run: Run,
    dataset: DataSet,
    other: DataSet | None,
    settings: Settings,
    *,
    task: Callable[[str, int], Callable[[], None]],
    command: str,
) -> Evidence:
    """Analyse a run.

    Parameters
    ----------
    run : Run
    dataset : DataSet
        The sweep's data: calibration uses its validation images.
    other : DataSet or None
        Images to measure instead of its test split.
    settings : Settings
    task : callable
        Given a description and a number of steps, returns what to call after each step.
    command : str
        Of this analysis, for the record.

    Returns
    -------
    Evidence
    """
    chosen, missing = choose(candidates(run), settings.top)
    missing = [*unfinished(run), *missing]
    measured = other or dataset
    items = list(other.items) if other else dataset.subset("test")
    split = "other" if other else "test"
    known = KnownCells(measured)
    kept = _pictured(items)
    crop, crop_item = _crop(items)
    trials: list[_Trial] = []
    first_watershed = next((c for c in chosen if c.config.task == "semantic2"), None)
    for candidate in chosen:
        for number, trial_id in enumerate(candidate.trials):
            tick = task(
                f"{candidate.name}, seed {run.configs[trial_id].seed}",
                2 * len(dataset.subset("val")) + len(items),
            )
            try:
                trials.append(
                    _analyse(
                        run,
                        candidate,
                        trial_id,
                        dataset,
                        items,
                        split,
                        known,
                        settings,
                        both_gaps=candidate is first_watershed,
                        representative=number == 0,
                        pixel_size_um=measured.pixel_size_um,
                        kept=kept,
                        tick=tick,
                    )
                )
            except (CheckpointError, ValueError) as error:
                missing.append(f"{candidate.name} could not be analysed: {error}")
                continue
            if ended := trials[-1].calibration.at_bound:
                missing.append(
                    f"{candidate.name}, seed {run.configs[trial_id].seed}: the best value of "
                    f"{', '.join(ended)} lies at the end of what calibration searches."
                )
    if not trials:
        raise CheckpointError("; ".join(missing) or "nothing to analyse")
    truth = measure_truth(
        items,
        split=split,
        known=known,
        convention=settings.convention,
        pixel_size_um=measured.pixel_size_um,
    )
    empty = [i.stem for i, table in zip(items, truth) if table.empty]
    if empty:
        missing.append(f"Images without any true cell: {', '.join(empty[:8])}.")
    objects = _together([*truth, *(t for trial in trials for t in trial.test.objects)])
    standing = select(_by_method(trials), _units(trials[0].validation, settings))
    scores, units = _scores(trials, settings, split)
    biases = unit_biases(objects, unit=settings.unit).assign(parameters="calibrated")
    statistics, agreement, noise = _tables(objects, settings)
    if crop is not None and crop_item is not None:
        _fill_crop(run, crop, crop_item, {t.trial_id: t.calibration for t in trials}, task, missing)
    return Evidence(
        out=run.out,
        plan=run.plan,
        leaderboard=run.leaderboard,
        candidates=run.candidates,
        history=run.history,
        methods=_methods(run, trials, standing),
        scores=scores,
        units=pd.concat([units, biases], ignore_index=True),
        objects=objects,
        statistics=statistics,
        agreement=agreement,
        noise=noise,
        crop=crop,
        pictures=_pictures(items, kept, trials, split),
        missing=missing,
        settings=_record(settings, dataset, other, command),
    )


def _analyse(
    run: Run,
    candidate: Candidate,
    trial_id: str,
    dataset: DataSet,
    items: Sequence[Item],
    split: str,
    known: KnownCells,
    settings: Settings,
    *,
    both_gaps: bool,
    representative: bool,
    pixel_size_um: float | None,
    kept: Sequence[str],
    tick: Callable[[], None],
) -> _Trial:
    folder = run.checkpoint(trial_id)
    predictor = load(folder)
    with closing(predictor) if hasattr(predictor, "close") else nullcontext():
        calibration = calibrate_checkpoint(
            folder,
            predictor,
            read_manifest(folder),
            dataset,
            budget=settings.budget,
            seed=settings.seed,
            flips=settings.flips,
            tick=tick,
        )
        variants = [Variant(candidate.name, p) for p in ("default", "calibrated")]
        if both_gaps:
            variants.append(Variant(f"{candidate.name}, gap given back", "calibrated", True))
        shared: dict[str, Any] = {
            "known": known,
            "convention": settings.convention,
            "pixel_size_um": pixel_size_um,
            "flips": settings.flips,
            "tick": tick,
        }
        validation = measure_trial(
            trial_id,
            predictor,
            calibration,
            variants,
            dataset.subset("val"),
            split="val",
            objects=False,
            **shared,
        )
        test = measure_trial(
            trial_id,
            predictor,
            calibration,
            variants,
            items,
            split=split,
            objects=representative,
            keep=kept if representative else (),
            **shared,
        )
    return _Trial(candidate, trial_id, representative, calibration, validation, test)


def _together(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    if not full:
        return tables[0]
    return pd.concat(full, ignore_index=True)


def _by_method(trials: Sequence[_Trial]) -> dict[str, list[list[ImageScores]]]:
    found: dict[str, list[list[ImageScores]]] = {}
    for trial in trials:
        for variant, scores in trial.validation.scores.items():
            if variant.parameters == "calibrated":
                found.setdefault(variant.method, []).append(scores)
    return found


def _tables(
    objects: pd.DataFrame, settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    statistics = comparisons(
        objects,
        unit=settings.unit,
        convention=settings.convention,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    agreement = agreements(objects, unit=settings.unit, seed=settings.seed)
    return statistics, agreement, noise_of(objects, settings.convention)


def _methods(run: Run, trials: Sequence[_Trial], standing: dict[str, Selected]) -> pd.DataFrame:
    rows = []
    for trial in trials:
        config = run.configs[trial.trial_id]
        calibration = trial.calibration
        for variant in trial.test.scores:
            if variant.parameters != "calibrated":
                continue
            place = standing[variant.method]
            rows.append(
                {
                    "method": variant.method,
                    "trial_id": trial.trial_id,
                    "task": config.task,
                    "architecture": config.architecture,
                    "encoder": config.encoder,
                    "seed": config.seed,
                    "way": GIVEN_BACK if variant.give_back_gap else way_of(config),
                    "representative": trial.representative,
                    "default": json.dumps(calibration.default),
                    "calibrated": json.dumps(calibration.calibrated),
                    "at_bound": " ".join(calibration.at_bound),
                    "val_score": place.score,
                    "val_units": place.units,
                    "val_lowest": place.lowest,
                    "val_highest": place.highest,
                    "command": command_of(run, trial.trial_id),
                }
            )
    table = pd.DataFrame(rows)
    return table.sort_values(
        ["val_score", "method", "representative"],
        ascending=[False, True, False],
        kind="stable",
        ignore_index=True,
    )


def _units(measured: Measured, settings: Settings) -> list[str]:
    """Return the independent unit of each image: a group where tracks are the units."""
    return measured.images if settings.unit == "image" else measured.groups


def _scores(
    trials: Sequence[_Trial], settings: Settings, split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of all images together, and those of each independent unit."""
    rows, each = [], []
    for trial in trials:
        for name, measured in (("val", trial.validation), (split, trial.test)):
            units, members = unit_members(_units(measured, settings))
            for variant, images in measured.scores.items():
                common = {
                    "method": variant.method,
                    "trial_id": trial.trial_id,
                    "split": name,
                    "parameters": variant.parameters,
                }
                counts = {
                    "units": len(units),
                    "images": len(images),
                    "true_objects": sum(one.true_objects for one in images),
                    "predicted_objects": sum(one.predicted_objects for one in images),
                }
                rows += [
                    {**common, "metric": metric, "value": value, **counts}
                    for metric, value in zip(METRICS, pooled(images))
                ]
                each += [
                    {**common, "metric": metric, "unit": unit, "value": value}
                    for unit, values in zip(units, pooled(images, members))
                    for metric, value in zip(METRICS, values)
                ]
    return pd.DataFrame(rows), pd.DataFrame(each)


def _pictured(items: Sequence[Item]) -> list[str]:
    """Return the stems to show: spread evenly."""
    count = min(MOST_PICTURES, len(items))
    return [items[i].stem for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _pictures(
    items: Sequence[Item], kept: Sequence[str], trials: Sequence[_Trial], split: str
) -> list[Picture]:
    found = []
    for item in (i for i in items if i.stem in kept):
        labels: dict[str, Any] = {}
        for trial in trials:
            labels.update(trial.test.labels.get(item.stem, {}))
        pixels = normalize(read_image(item.image), Normalization())
        truth = read_labels(item.mask).labels
        found.append(Picture(item.stem, split, pixels, truth, labels))
    return found


def _crop(items: Sequence[Item]) -> tuple[Crop | None, Item | None]:
    """Choose the window of the first image that holds most cells of middling crowding."""
    for item in items:
        truth = read_labels(item.mask).labels
        if not truth.any():
            continue
        image = normalize(read_image(item.image), Normalization())
        side = min(CROP_SIDE, *truth.shape)
        corners = [
            (y, x)
            for y in range(0, truth.shape[0] - side + 1, max(1, side // 4))
            for x in range(0, truth.shape[1] - side + 1, max(1, side // 4))
        ]
        y, x = max(
            corners, key=lambda c: np.count_nonzero(truth[c[0] : c[0] + side, c[1] : c[1] + side])
        )
        window = (slice(y, y + side), slice(x, x + side))
        return Crop(item.stem, (y, x), image[window], truth[window]), item
    return None, None


def _fill_crop(
    run: Run,
    crop: Crop,
    item: Item,
    calibrations: dict[str, Calibration],
    task: Callable[[str, int], Callable[[], None]],
    missing: list[str],
) -> None:
    """Predict the crop's image with every finished trial; one network is in memory at a time."""
    ids = run.done()
    tick = task("one crop through every network", len(ids))
    image = read_image(item.image)
    (y, x), side = crop.corner, crop.pixels.shape[0]
    window = (slice(y, y + side), slice(x, x + side))
    for trial_id in ids:
        try:
            predictor = load(run.checkpoint(trial_id))
        except CheckpointError as error:
            missing.append(f"{trial_id}: {error}")
            tick()
            continue
        with closing(predictor) if hasattr(predictor, "close") else nullcontext():
            maps = predict_maps(predictor, image)
            config = predictor.config
            crop.probabilities[trial_id] = foreground_probability(config, maps, image.shape)[
                window
            ].copy()
            if trial_id in calibrations:
                labels = make_instances(
                    config,
                    maps,
                    calibrations[trial_id].calibrated,
                    (image.shape[0], image.shape[1]),
                )
                crop.labels[trial_id] = labels[window].copy()
        tick()


def _record(
    settings: Settings, dataset: DataSet, other: DataSet | None, command: str
) -> dict[str, Any]:
    from trainables.records.manifest import library_versions

    measured = other or dataset
    return {
        **settings.__dict__,
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
    from analysis.formats.trackmate import write_trackmate_objects
    from trainables.records.files import write_json, write_with

    report.mkdir(parents=True, exist_ok=True)
    write_with(report / "objects.parquet", evidence.objects.to_parquet)
    if len(evidence.objects):
        write_trackmate_objects(
            evidence.objects,
            report / "objects.csv",
            pixel_size_um=evidence.settings.get("pixel_size_um"),
            extra=OBJECT_COLUMNS,
        )
    for name in ("methods", "scores", "units", "statistics", "agreement", "noise"):
        table: pd.DataFrame = getattr(evidence, name).copy()
        if name in ("statistics", "agreement"):
            table.insert(0, "caution", CAUTION)
        write_with(report / f"{name}.csv", partial(table.to_csv, index=False))
    write_json(report / "settings.json", {**evidence.settings, "missing": evidence.missing})
