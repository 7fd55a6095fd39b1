"""The report: one page that opens from disk; estimates and their counts come first."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.evidence import TRUTH, Evidence
from analysis.report.answer import answer
from analysis.report.errors import errors_table
from analysis.report.figures import (
    METHODS_FIGURE,
    POPULATIONS_FIGURE,
    UNLABELLED_FIGURE,
    Drawn,
    figures_of,
    make_figures,
)
from analysis.report.figures.style import CELL_LINE, OUTCOME_COLOURS, TRUE_LINE
from analysis.report.purposes import purposes, purposes_said
from analysis.report.remarks import calibration_said, small_cells_said
from analysis.report.table1 import table1
from analysis.report.tables import Table, make_table, make_tables, number, representatives, unit_of
from analysis.report.unlabelled import unlabelled_said, unlabelled_table
from analysis.report.viewer import viewer_pictures
from analysis.report.words import PAPER, Linker
from trainables.cli import command_line
from trainables.records.files import write_text, write_with

TEMPLATES = Path(__file__).parent / "templates"
SETTINGS = ("top", "convention", "unit", "flips", "budget", "annotator")
"""Settings that the page's Methods section names; None where they were not recorded."""

NEAR_ANSWER = ("features", "populations", "conclusions")
"""Tables that stand between the answer and the figures."""
ABOVE_TABLES = {METHODS_FIGURE: "features", POPULATIONS_FIGURE: "populations"}
"""Figures that stand above one of these tables."""


@dataclass(frozen=True)
class Shown:
    """One figure of the page."""

    name: str
    title: str
    caption: str
    source: Markup
    """A data URI."""
    width: int
    """CSS pixels; larger than in print, because screens are read from further away."""


def shown(figures: Mapping[str, Drawn]) -> list[Shown]:
    """Return the figures of the page, embedded."""
    found = []
    for name, figure in figures.items():
        drawing = figure.path.read_bytes()
        points = re.search(rb'<svg[^>]*? width="([0-9.]+)pt"', drawing)
        width = round(float(points.group(1)) * 1.33 * 1.4) if points else 900
        kind = "svg+xml" if figure.pixels is None else "webp"
        data = base64.b64encode(figure.pixels or drawing).decode()
        source = Markup(f"data:image/{kind};base64,{data}")
        found.append(Shown(name, figure.title, figure.caption, source, width))
    return found


@dataclass(frozen=True)
class WithoutMasks:
    """The page's section on images without masks."""

    sentences: list[str]
    figure: Shown | None
    table: Table | None


def unlabelled(evidence: Evidence, figures: Sequence[Shown]) -> WithoutMasks | None:
    """Return the section on images without masks; None where none were given."""
    found = evidence.unlabelled
    if found is None:
        return None
    own = [figure for figure in figures if figure.name == UNLABELLED_FIGURE]
    table = make_table("unlabelled", *unlabelled_table(found))
    return WithoutMasks(
        unlabelled_said(found), own[0] if own else None, table if table.total else None
    )


def left_out(evidence: Evidence, figures: Mapping[str, Drawn]) -> list[str]:
    """Say which figures are missing; a task that the sweep did not include does not count."""
    return [
        f"Figure left out because its data are missing: {kind.title}."
        for name, kind in figures_of(evidence).items()
        if name not in figures
    ]


def embedded(value: Any) -> Markup:
    """Return JSON in which no text can close the surrounding script element."""
    text = json.dumps(value, allow_nan=False)
    for sign, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(sign, code)
    return Markup(text)


def parameters(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Return each method's parameters: the default and the calibrated value, and whether the
    calibrated one lies at a bound of the search.
    """
    rows = []
    for method in representatives(evidence).to_dict("records"):
        default, calibrated = (_read(method.get(key)) for key in ("default", "calibrated"))
        ended, ranges = str(method.get("at_bound") or "").split(), _read(method.get("ranges"))
        for name in dict.fromkeys([*default, *calibrated]):
            text = f"{default.get(name, '–')} → {calibrated.get(name, '–')}"
            if name in ranges:
                low, high = ranges[name]
                text += f"; searched from {low:.6g} to {high:.6g}"
            text += " (at the end of its range)" if name in ended else ""
            rows.append((str(method["method"]), name, text))
    return rows


def usage(evidence: Evidence) -> list[tuple[str, str]]:
    """Return each method and the command that applies it to new images, the recommended first.

    A sweep's folder stands for the method that the report recommends.
    """
    found = []
    for place, method in enumerate(representatives(evidence).to_dict("records")):
        model = evidence.out if not place else evidence.out / "checkpoints" / method["trial_id"]
        line = command_line("analysis.segment", "--model", model, "IMAGES", "--out", "CELLS")
        found.append((str(method["method"]), line))
    return found


def _read(text: Any) -> dict[str, Any]:
    """Read a JSON object of parameters; anything else counts as no parameters."""
    value = json.loads(text) if isinstance(text, str) else {}
    return value if isinstance(value, dict) else {}


def provenance(evidence: Evidence) -> list[tuple[str, str]]:
    """Return what a reader needs to repeat the study."""
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
        "Training seeds": ", ".join(f"{seed:g}" for seed in seeds),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    if settings.get("unlabelled"):
        facts["Images without masks"] = settings["unlabelled"]
    if settings.get("measured_data") not in (None, facts["Data"]):
        facts["Measured data"] = settings["measured_data"]
        facts["Measured data fingerprint"] = settings.get("measured_fingerprint")
    return [(name, str(value)) for name, value in facts.items() if value]


def _title(evidence: Evidence) -> str:
    """Name the run folder, and the search space where its name differs."""
    name, space = evidence.out.name, evidence.plan.get("space")
    more = f" (search space {space})" if space and space != name else ""
    return f"segsweep report: {name}{more}"


def write_report(evidence: Evidence, folder: Path) -> Path:
    """Write the page, and its figures and Table 1 as files.

    Parameters
    ----------
    evidence : Evidence
        What the analysis found.
    folder : Path
        The report's folder.

    Returns
    -------
    Path
        ``folder/index.html``, which needs no other file and no network.
    """
    table = table1(evidence)
    if not table.empty:
        write_with(folder / "table1.csv", lambda path: table.to_csv(path, index=False))
    figures = make_figures(evidence, folder / "figures")
    drawn = shown(figures)
    pictures, notes = viewer_pictures(evidence.pictures)
    board = evidence.leaderboard
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    linked = Linker()
    environment.filters["linked"] = linked
    failed = board[board["status"] == "failed"] if len(board) else board
    page = environment.get_template("report.html.j2").render(
        title=_title(evidence),
        answer=answer(evidence),
        purposes=purposes(evidence),
        purposes_said=purposes_said(evidence),
        tables=make_tables(evidence),
        figures=[one for one in drawn if one.name not in (UNLABELLED_FIGURE, *ABOVE_TABLES)],
        above={ABOVE_TABLES[one.name]: one for one in drawn if one.name in ABOVE_TABLES},
        unlabelled=unlabelled(evidence, drawn),
        errors=errors_table(evidence, {name for one in pictures for name in one["layers"]}),
        viewer=embedded({"pictures": pictures, "truth": TRUTH, "colours": OUTCOME_COLOURS})
        if pictures
        else None,
        outcomes=[*OUTCOME_COLOURS],
        lines=(CELL_LINE, TRUE_LINE),
        viewer_notes=notes,
        missing=[*evidence.missing, *left_out(evidence, figures)],
        data_notes=(evidence.plan.get("data") or {}).get("notes") or [],
        failed=failed.fillna({"error": "no reason was recorded"}).to_dict("records"),
        waiting=int(board["status"].isin(["waiting", "running", "stopped"]).sum())
        if len(board)
        else 0,
        parameters=parameters(evidence),
        calibration=calibration_said(evidence),
        small_cells=small_cells_said(evidence),
        usage=usage(evidence),
        near_answer=NEAR_ANSWER,
        linked=linked,
        paper=PAPER,
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
