"""The report: one page that opens from disk, estimates and their counts first."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from analysis.evidence import TRUTH, Evidence
from analysis.report.captions import captions
from analysis.report.figure_images import viewer_pictures
from analysis.report.figures import make_figures
from analysis.report.tables import (
    counted,
    independent,
    make_tables,
    measured_split,
    number,
    ranking,
    relative_bias,
    representatives,
    unit_of,
)
from trainables.records.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
SETTINGS = ("top", "convention", "unit", "flips", "budget")
"""Settings that the page's methods name, None where they were not recorded."""
WHY = (
    "Whether differences between methods are real, this page does not yet say: in simulations with "
    "few independent units, intervals missed the truth and tests rejected equal methods more often "
    "than they state, so both are left out until they are rebuilt."
)
"""Why there are estimates only; said once on the page."""


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    headline: str
    sentences: list[str]


@dataclass(frozen=True)
class Shown:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    source: Markup
    """A data URI."""
    width: int
    """CSS pixels, larger than printed: screens are read from further away."""


def answer(evidence: Evidence) -> Answer:
    """Say which method scores highest, by how much and from how many units: estimates only."""
    methods = representatives(evidence)
    if methods.empty:
        text = "No method could be analysed yet, so there is no answer."
        return Answer(text, [f"{len(evidence.leaderboard)} trials are in the leaderboard.", WHY])
    first = methods.iloc[0].to_dict()
    sentences = [*_measured(evidence, first), WHY, *_tested(evidence), *_features(evidence, first)]
    return Answer(_headline(methods), sentences)


def _headline(methods: pd.DataFrame) -> str:
    names, scores = methods["method"].tolist(), methods["val_score"].tolist()
    if len(names) == 1:
        return f"One method was analysed: {names[0]}."
    if not math.isfinite(scores[0]):
        return f"{len(names)} methods were analysed; none has a validation score."
    equal = scores.count(scores[0])
    said = f"mean AP {scores[0]:.3f} on validation"
    if equal < len(names):
        lead = scores[0] - scores[equal]
        more = "less than 0.001" if lead < 0.0005 else f"{lead:.3f}"
        known = math.isfinite(lead)
        said += f", {more} more than {names[equal]}" if known else f"; {names[equal]} has no score"
    if equal > 1:
        both = " and ".join(names[:equal])
        return f"{both} score highest of {len(names)} methods, with the same {said}."
    return f"{names[0]} scores highest of {len(names)} methods: {said}."


def _measured(evidence: Evidence, first: Mapping[Any, Any]) -> list[str]:
    """Say from how much the first method's validation score is, and how far units are apart."""
    count = counted(evidence, "val")
    unit = unit_of(evidence)
    cells = f"{_many(count['true_objects'], 'true cell')}"
    if unit == "image":
        said = f"{count['units']} independent validation image{'s' * (count['units'] != 1)}"
    else:
        said = f"{independent(count['units'], unit)} of validation images"
        cells = f"{_many(count['images'], 'image')}, {cells}"
    said = f"Measured on {said} ({cells})"
    if not math.isfinite(first["val_score"]):
        return [f"{said}; no score could be given."]
    if first["val_units"] < 2:
        return [f"{said}."]
    low, high = first["val_lowest"], first["val_highest"]
    return [
        f"{said}: the mean AP of {first['method']} is {low:.3f} in the lowest {unit} and "
        f"{high:.3f} in the highest."
    ]


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"


def _tested(evidence: Evidence) -> list[str]:
    """Say what the first method scores on the reported images."""
    row = ranking(evidence).iloc[0]
    if not math.isfinite(row["test_ap"]):
        return []
    split, unit = measured_split(evidence), unit_of(evidence)
    count = counted(evidence, split)
    images = "" if unit == "image" else f"{_many(count['images'], 'image')}, "
    return [
        f"On the {split} images, not used for training, tuning or selection "
        f"({independent(count['units'], unit)}, {images}"
        f"{_many(count['true_objects'], 'true cell')}): mean AP {row['test_ap']:.3f}, "
        f"IoU {row['test_iou']:.3f}."
    ]


def _features(evidence: Evidence, first: Mapping[Any, Any]) -> list[str]:
    """Say by how much the first method's features differ from the truth's."""
    biases = relative_bias(evidence)
    if biases.empty or not (biases["method"] == first["method"]).any():
        return []
    rows = biases[biases["method"] == first["method"]]
    parts = ", ".join(
        f"{feature.replace('_', ' ')} {100 * value:+.1f} %"
        for feature, value in zip(rows["feature"], rows["value"])
    )
    units = _many(int(rows["units"].max()), unit_of(evidence, cells=True))
    return [
        f"Cell features of {first['method']} against the ground truth, for the "
        f"{_many(int(rows['n'].max()), 'cell')} in {units} that both have: {parts}."
    ]


def shown(evidence: Evidence, figures: Mapping[str, Path]) -> list[Shown]:
    """Return the figures of the page, embedded."""
    texts = captions(evidence)
    found = []
    for name, (title, caption) in texts.items():
        if name not in figures:
            continue
        drawing = figures[name].read_bytes()
        points = re.search(rb'<svg[^>]*? width="([0-9.]+)pt"', drawing)
        width = round(float(points.group(1)) * 1.33 * 1.4) if points else 900
        data = base64.b64encode(drawing).decode()
        source = Markup(f"data:image/svg+xml;base64,{data}")
        found.append(Shown(name, title, caption, source, width))
    return found


def left_out(evidence: Evidence, figures: Mapping[str, Path]) -> list[str]:
    """Say which figures are not there; a task that was not asked for is nothing missing."""
    tasks = set(evidence.leaderboard["task"]) if len(evidence.leaderboard) else {"semantic2"}
    other = {f"figure8_networks_{task}" for task in {"semantic2", "semantic3", "stardist"} - tasks}
    texts = captions(evidence)
    return [
        f"Left out, since what it would show is not there: {title}."
        for name, (title, _) in texts.items()
        if name not in figures and name not in other
    ]


def embedded(value: Any) -> Markup:
    """Return JSON that no text in it can end the script element of."""
    text = json.dumps(value, allow_nan=False)
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, code)
    return Markup(text)


def parameters(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Return method, parameter and its values: by default and calibrated; and whether the search
    ended at a bound.
    """
    rows = []
    for method in representatives(evidence).to_dict("records"):
        default, calibrated = (_read(method.get(key)) for key in ("default", "calibrated"))
        ended = str(method.get("at_bound") or "").split()
        for name in dict.fromkeys([*default, *calibrated]):
            text = f"{default.get(name, '–')} → {calibrated.get(name, '–')}"
            text += " (at its bound)" if name in ended else ""
            rows.append((str(method["method"]), name, text))
    return rows


def _read(text: Any) -> dict[str, Any]:
    """Read a JSON object of parameters; anything else is none."""
    value = json.loads(text) if isinstance(text, str) else {}
    return value if isinstance(value, dict) else {}


def provenance(evidence: Evidence) -> list[tuple[str, str]]:
    """Return what one needs to do it again."""
    plan, settings = evidence.plan, evidence.settings
    data = plan.get("data") or {}
    versions = {**(plan.get("versions") or {}), **(settings.get("versions") or {})}
    split = {name: len(stems) for name, stems in (data.get("split") or {}).items()}
    seeds = sorted(set(evidence.leaderboard["seed"].dropna())) if len(evidence.leaderboard) else []
    facts: dict[str, Any] = {
        "Sweep": "; ".join(plan.get("commands") or []),
        "Analysis": settings.get("command"),
        "Search space": plan.get("space"),
        "Started": plan.get("created"),
        "Git commit": plan.get("git_commit"),
        "Data": settings.get("data") or data.get("path"),
        "Data fingerprint": settings.get("fingerprint") or data.get("fingerprint"),
        "Images per split": ", ".join(f"{name} {count}" for name, count in split.items()),
        "Seeds of training": ", ".join(f"{seed:g}" for seed in seeds),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    if settings.get("measured_data") not in (None, facts["Data"]):
        facts["Measured data"] = settings["measured_data"]
        facts["Measured data fingerprint"] = settings.get("measured_fingerprint")
    return [(name, str(value)) for name, value in facts.items() if value]


def _title(evidence: Evidence) -> str:
    """Name the run folder, and the search space where that is called otherwise."""
    name, space = evidence.out.name, evidence.plan.get("space")
    more = f" (search space {space})" if space and space != name else ""
    return f"segsweep report: {name}{more}"


def write_report(
    evidence: Evidence, folder: Path, figures: Mapping[str, Path] | None = None
) -> Path:
    """Write the page, and the figures and Table 1 beside it.

    Parameters
    ----------
    evidence : Evidence
        What the analysis found.
    folder : Path
        The report's folder.
    figures : mapping, optional
        What `analysis.report.figures.make_figures` returned; without it, figures are made.

    Returns
    -------
    Path
        ``folder/index.html``: it needs no other file and no network.
    """
    figures = make_figures(evidence, folder) if figures is None else figures
    pictures, notes = viewer_pictures(evidence.pictures)
    board = evidence.leaderboard
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failed = board[board["status"] == "failed"] if len(board) else board
    page = environment.get_template("report.html.j2").render(
        title=_title(evidence),
        answer=answer(evidence),
        tables=make_tables(evidence),
        figures=shown(evidence, figures),
        viewer=embedded({"pictures": pictures, "truth": TRUTH}) if pictures else None,
        viewer_notes=notes,
        missing=[*evidence.missing, *left_out(evidence, figures)],
        data_notes=(evidence.plan.get("data") or {}).get("notes") or [],
        failed=failed.fillna({"error": "no reason was recorded"}).to_dict("records"),
        waiting=int(board["status"].isin(["waiting", "running", "stopped"]).sum())
        if len(board)
        else 0,
        parameters=parameters(evidence),
        settings=dict.fromkeys(SETTINGS) | evidence.settings,
        unit=unit_of(evidence),
        pixel=number(float(evidence.settings.get("pixel_size_um") or math.nan)),
        provenance=provenance(evidence),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )
    path = folder / "index.html"
    write_text(path, page)
    return path
