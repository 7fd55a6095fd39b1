"""What the page says first: which methods may be the best, and how much data that is based on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.evidence import Evidence
from analysis.folds import SHOWN, folds_of
from analysis.report.conclusions import survives_said
from analysis.report.feature_tables import cells_said, populations_said, untested
from analysis.report.remarks import against_validation, second_said
from analysis.report.tables import (
    counted,
    independent,
    measured_split,
    ranking,
    representatives,
    unit_of,
)
from analysis.statistics.power import contenders, smallest_lead, units_needed
from analysis.statistics.resampling import FEWEST_UNITS

ENOUGH_SEEDS = 3
"""Number of trainings of a network that say something about its architecture."""
WANTED_LEAD = 0.02
MOST_NAMED = 4


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    headline: str
    sentences: list[str]
    """What to use and why, and what is not known."""
    details: list[str] = field(default_factory=list)
    """What that is based on, and what the cells' features say."""


def answer(evidence: Evidence) -> Answer:
    """Say which methods may be the best, how much data that is based on, and what is unknown."""
    methods = representatives(evidence)
    if methods.empty:
        text = "No method could be analysed yet, so there is no answer."
        return Answer(text, [f"The leaderboard has {len(evidence.leaderboard)} trials."])
    first = methods.iloc[0].to_dict()
    sentences = [
        *_contradictions(evidence, methods),
        *_compared(evidence, methods),
        *_recommended(methods),
        *second_said(evidence),
        *_what_is_not_known(evidence, methods),
        *_folds(evidence),
        *_same_fields(evidence),
    ]
    details = [
        *_measured(evidence, first),
        *_chosen(evidence),
        *_tested(evidence),
        *cells_said(evidence, str(first["method"])),
        *populations_said(evidence),
        *survives_said(evidence),
        *untested(evidence),
    ]
    return Answer(_headline(methods), sentences, details)


def _headline(methods: pd.DataFrame) -> str:
    names, scores = methods["method"].tolist(), methods["val_score"].tolist()
    if len(names) == 1:
        return f"One method was analysed: {names[0]}."
    if not math.isfinite(scores[0]):
        return f"{len(names)} methods were analysed; none has a validation score."
    tied = methods.loc[methods["tied"].astype(bool), "method"].tolist()
    known = math.isfinite(methods["val_low"].iloc[0])
    if known and tied == names[:1]:
        rest = "other method" if len(names) == 2 else f"{len(names) - 1} other methods"
        return f"{names[0]} is better than the {rest} on this page: {_score(methods)}."
    others = [name for name in tied if name != names[0]]
    if known:
        return (
            f"{names[0]} scores highest of the {len(names)} methods on this page "
            f"({_score(methods)}); "
            f"{_share(len(others), len(names) - 1)} statistically tied with it."
        )
    return f"{names[0]} scores highest of the {len(names)} methods on this page: {_score(methods)}."


def _compared(evidence: Evidence, methods: pd.DataFrame) -> list[str]:
    """Say what a method is, and how many of the trained networks the methods come from."""
    board = evidence.leaderboard
    if len(methods) < 2 or board.empty:
        return []
    keys = ["candidate"] if "candidate" in board else ["task", "architecture", "encoder"]
    trained = len(board.loc[board["status"] == "done", keys].drop_duplicates())
    used = methods["trial_id"].nunique()
    if used >= trained:
        which = f"the {trained} networks that were trained"
    else:
        which = f"{used} of the {trained} networks that were trained; the others are not compared"
    return [
        "A method is a trained network with a way of making single cells from its output. The "
        f"{len(methods)} methods on this page come from {which}."
    ]


def _share(count: int, total: int) -> str:
    """Say how many of the others.

    >>> [_share(*pair) for pair in ((1, 3), (2, 3), (3, 3), (1, 1))]
    ['1 of the 3 others is', '2 of the 3 others are', 'all 3 others are', 'the other one is']
    """
    if count == total:
        return "the other one is" if total == 1 else f"all {total} others are"
    return f"{count} of the {total} others {'is' if count == 1 else 'are'}"


def _score(methods: pd.DataFrame) -> str:
    first = methods.iloc[0]
    said = f"mean AP {first['val_score']:.3f}"
    if math.isfinite(first["val_low"]):
        said += f", 95 % confidence interval {first['val_low']:.3f} to {first['val_high']:.3f}"
    return f"{said}, on validation"


def _recommended(methods: pd.DataFrame) -> list[str]:
    """Say which method to use, by which rule, and which others may be as good."""
    names = methods["method"].tolist()
    known = math.isfinite(methods["val_low"].iloc[0])
    others = [n for n in methods.loc[methods["tied"].astype(bool), "method"] if n != names[0]]
    if len(names) == 1 or not known or not others:
        return []
    return [
        f"Recommended: {names[0]}. Of methods that are tied, the page takes the one with the "
        f"highest mean AP; the data cannot tell whether it is better than {_listed(others)}."
    ]


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        return "; ".join(shown) + f"; and {len(names) - MOST_NAMED} more"
    return shown[0] if len(shown) == 1 else "; ".join(shown[:-1]) + f"; or {shown[-1]}"


def _measured(evidence: Evidence, first: Mapping[Any, Any]) -> list[str]:
    """Say how much data the first method's validation score comes from, and how units differ."""
    count = counted(evidence, "val")
    unit = unit_of(evidence)
    cells = f"{_many(count['true_objects'], 'true cell')}"
    if unit == "image":
        said = f"{count['units']} independent validation image{'s' * (count['units'] != 1)}"
    else:
        said = f"validation images of {independent(count['units'], unit)}"
        cells = f"{_many(count['images'], 'image')}, {cells}"
    said = f"Measured on {said} ({cells})"
    if not math.isfinite(first["val_score"]):
        return [f"{said}; no score could be computed."]
    if first["val_units"] < 2:
        return [f"{said}."]
    low, high = first["val_lowest"], first["val_highest"]
    return [
        f"{said}: the mean AP of {first['method']} ranges from {low:.3f} in the lowest {unit} to "
        f"{high:.3f} in the highest."
    ]


def _folds(evidence: Evidence) -> list[str]:
    """Say which networks validated, which are shown, and what folds mean for the intervals."""
    data, folds = evidence.plan.get("data") or {}, folds_of(evidence.plan)
    if not folds:
        return []
    said = [
        f"Validation used {folds} folds: each group was validated once, by networks that were not "
        "trained on it. Networks of different folds share training images, so the confidence "
        "intervals are a little too narrow (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366).",
        "Test scores are means over the networks of all folds. Cells, pictures and the checkpoint "
        f"to use are those of fold {SHOWN}: folds have different validation images, which cannot "
        "show that one of their networks is better than another.",
    ]
    split, group_of = data.get("split") or {}, data.get("groups") or {}
    groups = {
        fold: {group_of.get(stem, stem) for stem in split.get(f"fold {fold}", ())}
        for fold in range(1, folds + 1)
    }
    single = [str(fold) for fold, names in groups.items() if len(names) == 1]
    if single:
        several = len(single) > 1
        said.append(
            f"Fold{'s' * several} {', '.join(single)} validate{'' if several else 's'} a single "
            "group: with no other group to choose parameters on, default parameters made the cells "
            "that are scored there."
        )
    return said


def _same_fields(evidence: Evidence) -> list[str]:
    """Say what frames of the same time-lapses cannot show."""
    options = (evidence.plan.get("data") or {}).get("options") or {}
    if options.get("split") != "time_blocks":
        return []
    return [
        "Training, validation and test images are frames of the same time-lapse (or of the same "
        "ones): they show the same cells at other times. How well the methods do on other fields, "
        "samples or days is not known."
    ]


def _what_is_not_known(evidence: Evidence, methods: pd.DataFrame) -> list[str]:
    """Say what so few units and trainings cannot show, and how many more would."""
    if len(methods) < 2 or not math.isfinite(methods["val_score"].iloc[0]):
        return []
    units, unit = int(methods["val_units"].iloc[0]), unit_of(evidence)
    if units < FEWEST_UNITS:
        return [
            f"Validation images of {independent(units, unit)} with cells cannot show which methods "
            f"are better: at least {FEWEST_UNITS} independent {unit}s are needed."
        ]
    said = []
    near = contenders(
        evidence.standing, methods.loc[methods["tied"].astype(bool), "method"].tolist()
    )
    if math.isfinite(lead := smallest_lead(near)):
        said.append(_power(near, units, unit, lead))
    seeds = evidence.standing.groupby("method")["seed"].nunique()
    if seeds.max() == 1:
        once = "once in each fold" if folds_of(evidence.plan) else "once"
        said.append(
            f"Each network was trained {once}, so this is about these trained networks, not about "
            f"their architectures. To compare architectures, train each {ENOUGH_SEEDS} times "
            f"(--seeds {ENOUGH_SEEDS})."
        )
    elif seeds.min() < ENOUGH_SEEDS:
        said.append(
            f"Some networks were trained fewer than {ENOUGH_SEEDS} times: what is said of them "
            "assumes that they vary from training to training as the others do."
        )
    return said


def _power(scores: pd.DataFrame, units: int, unit: str, lead: float) -> str:
    said = f"With {units} {unit}s, a lead below {lead:.2g} in mean AP is often missed"
    if lead <= WANTED_LEAD:
        return f"{said}."
    needed = units_needed(scores, WANTED_LEAD)
    if needed is None:
        return f"{said}; more {unit}s alone could not show a lead of {WANTED_LEAD}."
    return (
        f"{said}; to show a lead of {WANTED_LEAD}, about {needed - units} more {unit}s are needed."
    )


def _contradictions(evidence: Evidence, methods: pd.DataFrame) -> list[str]:
    """Name the methods whose validation and test scores contradict each other."""
    found = []
    for method in methods.to_dict("records"):
        ends = [method[name] for name in ("val_low", "val_high", "measured_low", "measured_high")]
        if not all(map(math.isfinite, ends)) or (ends[1] >= ends[2] and ends[3] >= ends[0]):
            continue
        found.append(
            f"{method['method']} ({ends[0]:.3f} to {ends[1]:.3f} against {ends[2]:.3f} to "
            f"{ends[3]:.3f})"
        )
    if not found:
        return []
    return [
        "Validation and test disagree: the 95 % confidence intervals of mean AP do not overlap for "
        f"{'; '.join(found)}. The {measured_split(evidence)} images are of another kind, or the "
        "choice of methods and parameters fitted the validation images."
    ]


def _chosen(evidence: Evidence) -> list[str]:
    """Say how the methods of the page were chosen, and whether others may be as good by IoU."""
    table = evidence.candidates
    if table.empty or "tied" not in table or table["iou_low"].isna().all():
        return []
    known = table[table["tied"].notna()]
    tied = int(known["tied"].astype(bool).sum())
    analysed = evidence.methods["method"].nunique()
    return [
        f"The page analyses {analysed} methods: the candidates with the highest validation IoU, "
        f"and the best one of every other way of making cells. By the IoU of foreground pixels "
        f"alone, {tied} of {len(known)} trained candidates are statistically tied."
    ]


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"


def _tested(evidence: Evidence) -> list[str]:
    """Say how the first method scores on the reported images."""
    row = ranking(evidence).iloc[0]
    if not math.isfinite(row["test_ap"]):
        return []
    split, unit = measured_split(evidence), unit_of(evidence)
    count = counted(evidence, split)
    images = "" if unit == "image" else f"{_many(count['images'], 'image')}, "
    first, interval = representatives(evidence).iloc[0], ""
    if math.isfinite(first["measured_low"]):
        low, high = max(0.0, first["measured_low"]), min(1.0, first["measured_high"])
        ends = f"{low:.3f} to {high:.3f}"
        interval = f" (95 % confidence interval {ends})"
    return [
        f"On the {split} images, not used for training, tuning or selection "
        f"({independent(count['units'], unit)}, {images}"
        f"{_many(count['true_objects'], 'true cell')}): mean AP {row['test_ap']:.3f}{interval}, "
        f"IoU {row['test_iou']:.3f}. {against_validation(evidence)}".rstrip()
    ]
