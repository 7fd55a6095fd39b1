"""The paper's own experiment: every way of making cells on images without masks, compared.

Without a truth, cells are units through the recommended method: its cells are linked to tracks, and
each cell of another method gets the track of the cell that it overlaps most. So all methods are
compared on the same tracks.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.evaluation.outcomes import outcomes
from analysis.evaluation.prediction import predict_maps
from analysis.evidence import Unlabelled, compared
from analysis.instances.methods import GIVEN_BACK, make_instances
from analysis.morphology.border import border_labels
from analysis.morphology.features import measure
from analysis.segment.inputs import Frame
from analysis.segment.tracks import link
from analysis.spread import Job, Spread
from analysis.statistics.resampling import FEWEST_UNITS
from analysis.study.comparisons import answered, with_unit
from analysis.study.families import UNLABELLED, Question, length_unit
from analysis.study.objects import Labels, together
from analysis.study.study import Study
from trainables.checkpoint import load
from trainables.errors import CheckpointError

KEYS = (
    "method",
    "trial_id",
    "image",
    "group",
    "frame",
    "label",
    "overlap_label",
    "track",
    "at_border",
    "left_out",
)
"""Columns of the object table before those of `analysis.morphology.measure`; see
`analysis.evidence.Unlabelled.objects`."""
NewTask = Callable[[str, int], Callable[[], None]]


class Compared(NamedTuple):
    """A method to compare, and how its cells are made."""

    method: str
    trial_id: str
    parameters: dict[str, float]
    give_back_gap: bool


class Packed(NamedTuple):
    """A compressed label image: those of a long film fit into memory."""

    content: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, labels: Labels) -> Packed:
        """Compress a label image."""
        return cls(zlib.compress(np.ascontiguousarray(labels, np.int32).tobytes(), 1), labels.shape)

    def labels(self) -> Labels:
        """Return the label image."""
        return np.frombuffer(zlib.decompress(self.content), np.int32).reshape(self.shape)


def best_of_ways(methods: pd.DataFrame) -> list[Compared]:
    """Return the first method of every way; the first of all is the recommended one.

    Parameters
    ----------
    methods : DataFrame
        See `analysis.evidence.Evidence.methods`. A gap that is given back is a way of its own.
    """
    rows = methods[methods["representative"].astype(bool)].drop_duplicates("way")
    return [
        Compared(
            str(row["method"]),
            str(row["trial_id"]),
            json.loads(row["calibrated"]),
            str(row["way"]).endswith(GIVEN_BACK),
        )
        for row in rows.to_dict("records")
    ]


def unlabelled(
    study: Study, methods: pd.DataFrame, new_task: NewTask, spread: Spread
) -> tuple[Unlabelled | None, list[str]]:
    """Segment a study's images without masks with every way, and compare the cells.

    A process has one frame at a time in memory, besides the recommended method's compressed label
    images.

    Parameters
    ----------
    study : Study
    methods : DataFrame
        See `best_of_ways`.
    new_task, spread
        See `analysis.study.gather.gather`.

    Returns
    -------
    Unlabelled or None
        None if `study` has no such images, or the recommended method cannot segment them.
    missing : list of str
        One sentence for each method that could not, or found no cell.
    """
    sequence, options = study.unlabelled, study.options
    if sequence is None:
        return None, []
    pixel_size = sequence.pixel_size_um or study.dataset.pixel_size_um
    chosen = best_of_ways(methods)
    tables, missing = _segmented(study, sequence.frames, chosen, pixel_size, new_task, spread)
    if not tables:
        return None, missing
    first = chosen[0].method
    objects = with_tracks(together(tables), first)
    none = [one.method for one in chosen if not (objects["method"] == one.method).any()]
    missing += [f"Images without masks: {method} found no cell." for method in none]
    unit = unit_of(objects)
    found = compare_methods(
        objects,
        unit=unit,
        convention=options.convention,
        resamples=options.resamples,
        seed=options.seed,
    )
    frames, path = len(sequence.frames), str(sequence.path)
    return Unlabelled(objects, found, first, unit, frames, pixel_size, path), missing


def _segmented(
    study: Study,
    frames: Sequence[Frame],
    chosen: Sequence[Compared],
    pixel_size_um: float | None,
    new_task: NewTask,
    spread: Spread,
) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the cells of each method and frame, and what could not be done."""
    tables: dict[str, list[pd.DataFrame]] = {}
    missing: list[str] = []
    reference: dict[str, Packed] = {}
    size = -(-len(frames) // spread.pieces)
    pieces = [frames[start : start + size] for start in range(0, len(frames), size)]
    for trial_id in dict.fromkeys(one.trial_id for one in chosen):
        own = [one for one in chosen if one.trial_id == trial_id]
        tick = new_task(f"without masks: {own[0].method}", len(frames))
        config = study.run.configs[trial_id]
        known = [{one.name: reference[one.name] for one in part if reference} for part in pieces]
        jobs = [Job((part, kept), config, len(part)) for part, kept in zip(pieces, known)]
        try:
            for result in spread.start(_cells_of_trial, (study, own, pixel_size_um), jobs):
                found, packed = result(tick)
                reference |= packed
                for method, cells in found.items():
                    tables.setdefault(method, []).extend(cells)
        except (CheckpointError, ValueError) as error:
            names = " and ".join(one.method for one in own)
            missing.append(f"Images without masks: {names} could not find cells ({error}).")
            for one in own:
                tables.pop(one.method, None)
            if chosen[0] in own:
                return [], missing  # the others have no tracks without it
    return [table for one in chosen for table in tables.get(one.method, [])], missing


def _cells_of_trial(
    study: Study,
    own: Sequence[Compared],
    pixel_size_um: float | None,
    frames: Sequence[Frame],
    reference: dict[str, Packed],
    tick: Callable[[], None],
) -> tuple[dict[str, list[pd.DataFrame]], dict[str, Packed]]:
    """Predict every frame once; return the cells of each of a trial's methods, frame by frame.

    `reference` holds the recommended method's label images by frame. If there are none yet, the
    first of the methods is the recommended one; its label images are returned, too.
    """
    options = study.options
    found: dict[str, list[pd.DataFrame]] = {one.method: [] for one in own}
    reference = dict(reference)
    with closing(load(study.run.checkpoint(own[0].trial_id))) as predictor:
        for frame in frames:
            image = frame.read()
            shape = (image.shape[0], image.shape[1])
            maps = predict_maps(predictor, image, flips=options.flips)
            for one in own:
                labels = make_instances(
                    predictor.config,
                    maps,
                    one.parameters,
                    shape,
                    give_back_gap=one.give_back_gap,
                )
                if frame.name not in reference:
                    reference[frame.name] = Packed.of(labels)
                cells = cells_of_frame(
                    labels,
                    reference[frame.name].labels(),
                    convention=options.convention,
                    pixel_size_um=pixel_size_um,
                )
                found[one.method].append(_named(cells, frame, one))
            tick()
    return found, reference


def cells_of_frame(
    labels: Labels, reference: Labels, *, convention: str, pixel_size_um: float | None
) -> pd.DataFrame:
    """Measure the cells of a frame, and find which cell of the recommended method each one is.

    Parameters
    ----------
    labels, reference : (H, W) int32 arrays
        Label images of a method, and of the recommended one.
    convention, pixel_size_um
        See `analysis.morphology.measure`.

    Returns
    -------
    DataFrame
        Columns of `analysis.morphology.measure`, overlap_label, at_border and left_out; see
        `analysis.evidence.Unlabelled.objects`.
    """
    rows = measure(labels, convention=convention, pixel_size_um=pixel_size_um)
    became = outcomes(reference, labels)
    partner = dict(zip(became.pred.tolist(), became.overlapped.tolist()))
    overlapped = pd.Series([partner.get(label, 0) for label in rows["label"]], dtype="Int64")
    at_border = np.isin(rows["label"], border_labels(labels))
    rows["overlap_label"] = overlapped.where(overlapped > 0).array
    return rows.assign(at_border=at_border, left_out=at_border)


def _named(cells: pd.DataFrame, frame: Frame, one: Compared) -> pd.DataFrame:
    table = cells.assign(
        method=one.method,
        trial_id=one.trial_id,
        image=frame.name,
        group=frame.sequence,
        frame=frame.number,
    )
    first = [key for key in KEYS if key != "track"]
    return table[[*first, *(c for c in table.columns if c not in KEYS)]]


def with_tracks(objects: pd.DataFrame, recommended: str) -> pd.DataFrame:
    """Link the recommended method's cells, and give the others' cells the tracks of these.

    Parameters
    ----------
    objects : DataFrame
        The columns of `analysis.evidence.Unlabelled.objects`, without track.
    recommended : str
        The method whose cells are linked.

    Returns
    -------
    DataFrame
        With the column track (Int64); NA for cells that are not linked to any other, for those
        that overlap no cell of the recommended method, and in fields of a single frame.
    """
    cells = objects[objects["method"] == recommended]
    cells = cells[cells.groupby("group")["frame"].transform("nunique") > 1]
    places = cells[["frame", "x", "y", "radius"]].assign(sequence=cells["group"])
    tracks = pd.DataFrame(
        {
            "image": cells["image"],
            "overlap_label": cells["label"].astype("Int64"),
            "track": link(places) if len(places) else pd.array([], dtype="Int64"),
        }
    )
    table = objects.merge(tracks, on=["image", "overlap_label"], how="left")
    return table[[*KEYS, *(c for c in table.columns if c not in KEYS)]]


def unit_of(objects: pd.DataFrame) -> str:
    """Return what is independent: fields ('group') if there are six with cells, else tracks."""
    return "group" if objects["group"].nunique() >= FEWEST_UNITS else "track"


def compare_methods(
    objects: pd.DataFrame, *, unit: str, convention: str, resamples: int, seed: int
) -> pd.DataFrame:
    """Compare all pairs of methods.

    Parameters
    ----------
    objects : DataFrame
        See `analysis.evidence.Unlabelled.objects`.
    unit : {"group", "track"}
    convention, resamples, seed
        See `analysis.study.comparisons.comparisons`.

    Returns
    -------
    DataFrame
        See `analysis.evidence.Unlabelled.statistics`; empty if fewer than two methods found cells.
    """
    cells = compared(objects)
    table = with_unit(cells, unit)
    question = Question(UNLABELLED, "", table[table["unit"].notna()], "method")
    found = answered(
        [question], recommended=None, convention=convention, resamples=resamples, seed=seed
    )
    if found.empty:
        return found
    paper = [_paper(cells, row) for row in found.to_dict("records")]
    return found.join(pd.DataFrame(paper, index=found.index))


def _paper(cells: pd.DataFrame, row: dict[Any, Any]) -> dict[str, float]:
    """Compare two methods by the paper's test: over all cells of all frames."""
    column, _ = length_unit(cells, row["feature"])
    a, b = (_values(cells, row[side], column) for side in ("a", "b"))
    p = stats.mannwhitneyu(a, b).pvalue if len(a) and len(b) else np.nan
    return {"cells_a": len(a), "cells_b": len(b), "p_cells": float(p)}


def _values(cells: pd.DataFrame, method: str, column: str) -> NDArray[np.float64]:
    return cells.loc[cells["method"] == method, column].dropna().to_numpy(float)
