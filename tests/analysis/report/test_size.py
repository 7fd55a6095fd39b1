"""The page stays small: with pictures that compress badly, many methods, and many images."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.evidence import Evidence, Picture
from analysis.report.figures import (
    LARGEST_DRAWING,
    METHODS_FIGURE,
    POPULATIONS_FIGURE,
    estimation,
    figures_of,
)
from analysis.report.figures.samples import MOST_METHODS
from analysis.report.figures.style import STYLE
from analysis.report.page import write_report
from analysis.report.viewer import viewer_pictures
from tests.analysis.evidence_data import METHODS, make_evidence

MANY, IMAGES = 60, 100


@pytest.fixture(scope="module")
def many() -> Evidence:
    """60 methods and 100 images, whose cells are those of four methods and one image."""
    evidence = make_evidence(units=4)
    (picture, *_), known = evidence.pictures, list(METHODS)
    names = [*known, *(f"U-Net, variant {n}" for n in range(MANY - len(known)))]
    tables: dict[str, Any] = {}
    for name in ("methods", "standing", "scores", "units", "objects", "errors", "agreement"):
        table: pd.DataFrame = getattr(evidence, name)
        parts = [table[table["method"] == known[n % 4]] for n in range(4, MANY)]
        more = [part.assign(method=names[n]) for n, part in enumerate(parts, 4)]
        tables[name] = pd.concat([table, *more], ignore_index=True)
    evidence = replace(evidence, **tables)
    labels = {name: picture.labels[known[n % 4]] for n, name in enumerate(names)}
    pixels, truth = picture.pixels, picture.truth
    pictures = [Picture(f"t{n:03d}", "test", pixels, truth, labels) for n in range(IMAGES)]
    return replace(evidence, pictures=pictures)


def test_figures_of_many_methods_fit_a_page(many: Evidence) -> None:
    for name, kind in figures_of(many).items():
        if name in ("figure5_training_loss", "figure6_validation_loss") or "figure8" in name:
            continue  # these show trials, not methods
        shown = kind.compute(many)
        assert shown is not None, name
        style: Any = STYLE
        with matplotlib.rc_context(style):
            assert kind.draw(shown).get_size_inches()[1] <= 9.7, name
        if name not in ("figure7_dataset_iou", "figure10_overlays", POPULATIONS_FIGURE):
            most = estimation.MOST_METHODS if name == METHODS_FIGURE else MOST_METHODS
            said = f"The first {most} of {MANY} methods; tables have all."
            assert said in kind.caption(shown), name


def test_viewer_of_many_methods_shows_fewer_pictures(many: Evidence) -> None:
    made, notes = viewer_pictures(many.pictures)
    assert 1 <= len(made) < 10
    assert notes == [f"The viewer shows the first {len(made)} of {IMAGES} pictures."]
    assert len(made[0]["layers"]) == MANY + 1


@pytest.mark.slow  # draws all figures
def test_page_of_many_methods_and_images_is_small(many: Evidence, tmp_path: Path) -> None:
    page = write_report(many, tmp_path)
    assert page.stat().st_size < 5e6


def test_large_drawings_are_pixels_on_the_page(tmp_path: Path) -> None:
    one = make_evidence(
        names=[next(iter(METHODS))], architectures=("Unet",), encoders=("resnet152",)
    )
    picture = one.pictures[0]
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 1, (300, 400)).astype(np.float32)
    truth = np.tile(picture.truth, (2, 2))[:300, :400]
    large = Picture("t000", "test", noise, truth, {next(iter(METHODS)): truth})
    page = write_report(replace(one, pictures=[large]), tmp_path)
    text = page.read_text()
    found = re.findall(
        r'<figure id="(\w+)">.*?src="data:image/([a-z+]+);base64,([^"]+)"', text, re.S
    )
    kinds = {name: kind for name, kind, _ in found}
    assert kinds["figure10_overlays"] == "webp"
    assert kinds["overlaps"] == "svg+xml"
    for name, kind, data in found:
        drawing = tmp_path / "figures" / f"{name}.svg"
        assert drawing.with_suffix(".pdf").exists()
        assert (drawing.stat().st_size > LARGEST_DRAWING) == (kind == "webp")
        if kind == "webp":
            shown = Image.open(io.BytesIO(base64.b64decode(data)))
            assert shown.width >= 600
            assert len(data) < drawing.stat().st_size
