"""The report: one page that opens from disk, with the answer first."""

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
import pandas as pd
from markupsafe import Markup

from analysis.captions import captions
from analysis.evidence import TRUTH, Evidence
from analysis.figure_images import viewer_pictures
from analysis.figures import make_figures
from analysis.report_tables import (
    letters,
    make_tables,
    measured_split,
    number,
    ranking,
    representatives,
    with_interval,
)
from trainables.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
LEVEL = 0.05
"""Differences with a smaller p (Holm, unit level) survive."""
TOLD = ("top", "convention", "unit", "flips", "budget", "resamples", "seed")
"""Settings that the methods' text tells, None where they were not recorded."""
MOST_LINES = 12
"""Differences said in words at most; the table has them all."""


@dataclass(frozen=True)
class Answer:
    """What the page says first."""

    headline: str
    sentences: list[str]
    differences: list[str]
    """Differences in morphology that survive, one line per pair."""


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


def _list(names: Sequence[str]) -> str:
    """Join names as a sentence does; names that hold commas by semicolons."""
    comma = "; " if any("," in name for name in names) else ", "
    return names[0] if len(names) == 1 else f"{comma.join(names[:-1])} and {names[-1]}"


def answer(evidence: Evidence) -> Answer:
    """Say which methods are best, and what differs, in words that the evidence supports."""
    methods = representatives(evidence)
    if methods.empty:
        text = "No method could be analysed yet, so there is no answer."
        return Answer(text, [f"{len(evidence.leaderboard)} trials are in the leaderboard."], [])
    headline, sentences = _quality(methods, evidence)
    more, differences = _morphology(evidence)
    return Answer(headline, [*sentences, *more], differences)


def _quality(methods: pd.DataFrame, evidence: Evidence) -> tuple[str, list[str]]:
    names = methods["method"].tolist()
    best = methods.loc[methods["among_best"].astype(bool), "method"].tolist() or names[:1]
    known = bool(methods["val_low"].notna().any())
    if len(names) == 1:
        headline = f"One method was analysed: {names[0]}."
        sentences = ["With one method there is nothing to compare it with."]
    elif not known:
        headline = f"{names[0]} scores highest, but these data cannot say whether it is best."
        sentences = [
            "There are too few independent validation units for intervals (six at least), so no "
            f"method can be told from another. All {len(names)} stay in the race."
        ]
    elif len(best) == 1:
        headline = f"{best[0]} is best of {len(names)} methods."
        sentences = ["Its lead over every other method on validation is larger than chance."]
    else:
        headline = f"{_list(best)} cannot be told apart."
        rest = len(names) - len(best)
        sentences = [
            f"They are the best {len(best)} of {len(names)} methods: on validation, the lead of "
            f"{names[0]} over the others named is within chance."
            + (f" The remaining {rest} {'is' if rest == 1 else 'are'} worse." if rest else "")
        ]
    top = methods.iloc[0]
    score = with_interval((top["val_score"], top["val_low"], top["val_high"]))
    sentences.append(
        f"Mean AP of {top['method']} on validation: {score}"
        + (", with its 95 % interval." if known else ".")
    )
    table = ranking(evidence)
    if "test_ap" in table and table["test_ap"].iloc[0] != "not known":
        row = table.iloc[0]
        sentences.append(
            f"On the {measured_split(evidence)} images, which chose nothing: mean AP "
            f"{row['test_ap']}, IoU {row['test_iou']}."
        )
    return headline, sentences


def _morphology(evidence: Evidence) -> tuple[list[str], list[str]]:
    """Say which differences survive Holm at the unit level and exceed the noise of pixels."""
    table = evidence.statistics
    if table.empty:
        return ["Cell features were not compared: there is nothing to compare."], []
    unit = {"group": "groups of images", "image": "images", "track": "tracked cells"}.get(
        evidence.settings.get("unit", ""), "units"
    )
    if table["p_unit_holm"].isna().all():
        return [
            f"Differences in morphology cannot be tested: there are too few independent {unit} "
            "(six at least). Thousands of cells do not replace them: cells of one "
            f"{unit.split()[0].rstrip('s')} are alike for reasons that no method has a part in."
        ], []
    real = table[(table["p_unit_holm"] < LEVEL) & ~table["below_noise"].astype(bool)]
    tests = int(table["p_unit_holm"].notna().sum())
    meaning = (
        f"(of {tests} tests, p < {LEVEL} after Holm, {unit} as units, larger than pixel noise)"
    )
    if real.empty:
        return [f"No difference in cell features survives {meaning}.{_reach(table, tests)}"], []
    lines = []
    for (comparison, method, a, b), rows in real.fillna({"method": ""}).groupby(
        ["comparison", "method", "a", "b"], sort=False
    ):
        said = [_difference(evidence, row) for row in rows.to_dict("records")]
        where = "" if comparison == "methods" else f"{str(comparison).capitalize()}, {method}: "
        lines.append(f"{where}{a} against {b}: {'; '.join(said)}.")
    hidden = len(lines) - MOST_LINES
    lines = lines[:MOST_LINES] + ([f"{hidden} more: see the table."] if hidden > 0 else [])
    return [f"{len(real)} differences in cell features survive {meaning}:"], lines


def _reach(table: pd.DataFrame, tests: int) -> str:
    """Say so when no difference, however large, could have been found."""
    least = table["p_least"].min() if "p_least" in table else math.nan
    if not least * tests >= LEVEL:
        return ""
    return (
        f" None could: with so few units the smallest possible p is {least:.2g}, which times "
        f"{tests} tests is above {LEVEL}. More independent images would help; more cells do not."
    )


def _difference(evidence: Evidence, row: Mapping[Any, Any]) -> str:
    """Say how the first of a pair differs from the second in one feature."""
    feature = str(row["feature"])
    name = feature.replace("_", " ")
    a, b = row.get("mean_a", math.nan), row.get("mean_b", math.nan)
    if not (math.isfinite(a) and math.isfinite(b) and b):
        return f"{name} {'larger' if row['difference'] > 0 else 'smaller'}"
    share = 100 * (a - b) / abs(b)
    return f"{name} {'larger' if share > 0 else 'smaller'} by {abs(share):.1f} %"


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
        What `analysis.figures.make_figures` returned; without it, figures are made.

    Returns
    -------
    Path
        ``folder/index.html``: it needs no other file and no network.
    """
    figures = make_figures(evidence, folder) if figures is None else figures
    methods = representatives(evidence)
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
        title=f"segsweep report: {evidence.plan.get('space') or evidence.out.name}",
        answer=answer(evidence),
        tables=make_tables(evidence),
        figures=shown(evidence, figures),
        viewer=embedded({"pictures": pictures, "truth": TRUTH}) if pictures else None,
        viewer_notes=notes,
        methods=methods.to_dict("records"),
        marks=letters(methods),
        missing=[*evidence.missing, *left_out(evidence, figures)],
        data_notes=(evidence.plan.get("data") or {}).get("notes") or [],
        failed=failed.fillna({"error": "no reason was recorded"}).to_dict("records"),
        waiting=int(board["status"].isin(["waiting", "running", "stopped"]).sum())
        if len(board)
        else 0,
        parameters=parameters(evidence),
        settings=dict.fromkeys(TOLD) | evidence.settings,
        split=measured_split(evidence),
        pixel=number(float(evidence.settings.get("pixel_size_um") or math.nan)),
        provenance=provenance(evidence),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )
    path = folder / "index.html"
    write_text(path, page)
    return path
