"""The real command line on a real sweep: whole, half finished, with failures, with bad requests."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from analysis.evidence import FEATURES, TRUTH, compared
from analysis.instances.methods import GIVEN_BACK
from analysis.morphology.features import measure
from analysis.run import main
from analysis.runfolder import read_run
from analysis.segment import main as segment_main
from analysis.study.comparisons import agreements, comparisons, noise_of
from analysis.study.files import file_names
from analysis.study.given_labels import items_of, open_given
from analysis.study.objects import KEYS
from tests.analysis.page_text import claims, drawn, visible
from trainables.data.dataset import index_dataset


def run(*words: object, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.run", *map(str, words)],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=500,
    )
    return done.returncode, done.stdout, done.stderr


Analyse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def analyse(capsys: pytest.CaptureFixture[str]) -> Analyse:
    """Run the command in this process, which has imported everything already."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([*map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def analysed(swept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("analysed") / "run"
    shutil.copytree(swept, out)
    code, text, err = run(out, "--budget", 12, "--resamples", 300, cwd=out.parent)
    assert code == 0, text + err
    assert err == ""
    return out, text


def table(out: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(out / "report" / f"{name}.csv")


def test_three_ways_are_compared(analysed: tuple[Path, str]) -> None:
    out, text = analysed
    methods = table(out, "methods")
    assert set(methods["way"]) >= {"2-class + watershed", "3-class", "star-convex head"}
    for name in methods["method"]:
        assert name.split(",")[0] in text
    assert methods["val_score"].is_monotonic_decreasing
    assert (methods["val_units"] == 5).all()  # in one group is no cell, and none was found
    assert (methods["val_lowest"] <= methods["val_score"] + 1e-12).all()
    assert (methods["val_score"] <= methods["val_highest"] + 1e-12).all()
    scores = table(out, "scores")
    best = scores[(scores["split"] == "test") & (scores["parameters"] == "calibrated")]
    f1 = best[best["metric"] == "f1_50"].groupby("method")["value"].max()
    assert f1.max() > 0.9
    assert set(scores["parameters"]) == {"default", "calibrated"}
    assert (best["units"] == 6).all()
    keys = ["method", "trial_id", "split", "parameters", "metric"]
    units = table(out, "units").groupby(keys)["value"]
    f1 = scores[scores["metric"] == "f1_50"].set_index(keys)["value"]
    assert (units.min().loc[f1.index] <= f1).all()
    assert (f1 <= units.max().loc[f1.index]).all()


def test_title_and_what_comes_next(analysed: tuple[Path, str], swept: Path) -> None:
    out, text = analysed
    page = (out / "report" / "index.html").read_text()
    assert "<title>segsweep report: run (search space space)</title>" in page
    assert "<h1>segsweep report: run (search space space)</h1>" in page
    (line,) = (line for line in text.splitlines() if "analysis.segment" in line)
    python, *words = shlex.split(line)
    images = words[4]
    assert words == ["-m", "analysis.segment", "--model", "run", images, "--out", "run/cells"]
    assert (out.parent / python).samefile(sys.executable)
    assert len(list((out.parent / images).glob("*.tif"))) == 18


def test_page_claims_nothing_that_it_cannot_hold(analysed: tuple[Path, str]) -> None:
    out, said = analysed
    page = out / "report" / "index.html"
    text, figures = visible(page), drawn(page)
    assert claims(text) == []
    assert len(figures) >= 8
    for name, texts in figures.items():
        assert claims(" ".join(texts)) == [], name
    methods = table(out, "methods")
    highest = methods.loc[methods["val_score"] == methods["val_score"].max(), "method"]
    best = highest.iloc[0]
    assert f"{best} scores highest of" in text or f"{best} is better than" in text
    assert "Measured on validation images of 6 independent groups (6 images, 25 true cells)" in text
    assert any("6 independent groups" in words for words in figures["calibration"])
    printed = " ".join(said.split())
    assert f"{best} scores highest of" in printed or f"{best} is better than" in printed
    assert claims(printed.split("this took")[0]) == []
    few = (
        "Validation images of 5 independent groups with cells cannot show which methods are better"
    )
    assert few in text
    assert methods["val_low"].isna().all()
    assert methods["tied"].all()
    assert "Whether cell features differ from the truth cannot be tested: 5 independent" in text


def test_methods_are_ranked_by_validation_alone(analysed: tuple[Path, str]) -> None:
    methods, scores = (table(analysed[0], name) for name in ("methods", "units"))
    scores = scores[(scores["metric"] == "ap_mean") & (scores["parameters"] == "calibrated")]
    # an image without true cells: 1 for methods that show none, if others do
    invented = scores.groupby(["split", "unit"])["value"].transform(lambda v: v.notna().any())
    scores = scores.assign(value=scores["value"].where(~(scores["value"].isna() & invented), 1.0))
    by_split = {
        split: rows.groupby("method")["value"].mean() for split, rows in scores.groupby("split")
    }
    shown = methods.groupby("method")["val_score"].first()
    pd.testing.assert_series_equal(
        shown, by_split["val"][shown.index], check_names=False, rtol=1e-9
    )
    assert (shown - by_split["test"][shown.index]).abs().max() > 1e-3, "nothing to tell apart"
    board = pd.read_csv(analysed[0] / "leaderboard.csv").set_index("trial_id")
    for _, rows in methods.groupby("method"):
        own = board.loc[rows["trial_id"], "val_dataset_iou"]
        assert own[rows.loc[rows["representative"], "trial_id"]].eq(own.max()).all()


def test_segmenting_takes_the_first_method_of_the_report(
    analysed: tuple[Path, str], cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = analysed
    words = ("--model", out, cells / "images" / "i12.tif", "--out", tmp_path / "segmented")
    assert segment_main([*map(str, words)]) == 0
    first = table(out, "methods").iloc[0]
    text = capsys.readouterr().out
    assert f"model: {first['method']}, the first method of the report" in text
    settings = json.loads((tmp_path / "segmented" / "settings.json").read_text())
    assert settings["model"]["checkpoint"].endswith(first["trial_id"])


def test_object_table(analysed: tuple[Path, str]) -> None:
    objects = pd.read_parquet(analysed[0] / "report" / "objects.parquet")
    assert tuple(objects.columns[: len(KEYS)]) == KEYS
    assert {*FEATURES, "x", "y", "area_um2", "perimeter_um", "radius_um", "parts"} <= set(objects)
    assert set(objects["split"]) == {"test"}
    truth = objects[objects["method"] == TRUTH]
    assert set(truth["image"]) == {f"i{n}" for n in range(12, 17)}  # i17 shows no cell
    assert set(truth["population"]) == {"small", "large"}
    matched = objects[(objects["method"] != TRUTH) & objects["matched_label"].notna()]
    assert (matched["iou"] >= 0.5).all()
    assert matched["population"].notna().all()


def test_object_table_is_there_plain(analysed: tuple[Path, str]) -> None:
    folder = analysed[0] / "report"
    ours = pd.read_parquet(folder / "objects.parquet")
    plain = pd.read_csv(folder / "objects.csv", keep_default_na=False, na_values=[""])
    assert list(plain) == list(ours)
    for name in ours:
        column = plain[name].astype(ours[name].dtype)
        filled = column.where(column.notna(), "") if name == "trial_id" else column
        pd.testing.assert_series_equal(filled, ours[name], check_exact=True)


def test_object_table_as_trackmate_exports_it(analysed: tuple[Path, str]) -> None:
    folder = analysed[0] / "report"
    everything = pd.read_parquet(folder / "objects.parquet")
    everything = everything[everything["area"].notna()]
    methods = everything["method"].unique()
    files = file_names(methods)
    assert {path.name for path in (folder / "trackmate").iterdir()} == set(files.values())
    assert files[TRUTH] == "ground_truth.csv"
    for method in methods:
        ours = everything[everything["method"] == method].reset_index(drop=True)
        theirs = pd.read_csv(folder / "trackmate" / files[method], skiprows=[1, 2, 3])
        assert list(theirs["LABEL"]) == list(ours["image"] + ":" + ours["label"].astype(str))
        assert theirs["AREA"].to_numpy() == pytest.approx(ours["area_um2"].to_numpy(float))
        assert theirs["POSITION_X"].to_numpy() == pytest.approx(ours["x"].to_numpy(float) * 0.5)
        assert theirs["ID"].is_unique
        # each image is a group by itself: no film, no time
        assert theirs[["FRAME", "POSITION_T", "TRACK_ID"]].isna().all(axis=None)


def test_statistics_are_over_units(analysed: tuple[Path, str]) -> None:
    statistics = table(analysed[0], "statistics")
    assert set(statistics["comparison"]) == {"methods", "populations"}
    # five images show cells: too few for a p-value
    assert (statistics["note"] == "too few independent units").all()
    assert statistics["p_unit"].isna().all()
    assert statistics["p_mann_whitney"].notna().any()
    assert statistics["verdict"].isna().all()
    assert statistics["margin"].notna().all()
    families = statistics.fillna({"family": ""}).groupby("family")["comparison"].unique()
    assert families["methods against truth"].tolist() == ["methods"]
    own = statistics.loc[statistics["family"] == "populations", "method"].unique()
    assert own.tolist() == [table(analysed[0], "methods")["method"].iloc[0]]
    sizes = statistics[(statistics["comparison"] == "populations")]
    radius = sizes[(sizes["method"] == TRUTH) & (sizes["feature"] == "radius")].iloc[0]
    assert (radius["a"], radius["b"]) == ("large", "small")
    assert radius["feature_unit"] == "um"
    assert radius["difference"] == pytest.approx(2, abs=0.5)  # 4 pixels of 0.5 um
    assert abs(radius["difference"]) > radius["margin"] == 0.25


def labels_of_others(data: Path, folder: Path, ending: str = "") -> Path:
    """Write the true masks of the test images as another person would: cells 1 pixel smaller."""
    folder.mkdir()
    for stem in (f"i{n}" for n in range(12, 18)):
        labels: NDArray[np.uint16] = np.asarray(tifffile.imread(data / "masks" / f"{stem}.tif"))
        inner = ndimage.grey_erosion(labels, size=(3, 3))
        tifffile.imwrite(folder / f"{stem}{ending}.tif", inner)
    return folder


def test_given_labels_are_scored_measured_and_tested_but_not_ranked(
    analysed: tuple[Path, str], cells: Path, tmp_path: Path, analyse: Analyse
) -> None:
    out = tmp_path / "run"
    shutil.copytree(analysed[0], out)
    person = labels_of_others(cells, tmp_path / "person")
    exact = tmp_path / "exact"
    shutil.copytree(cells / "masks", exact)
    code, text, err = analyse(
        *(out, "--budget", 12, "--resamples", 300),
        *("--labels", f"person={person}", "--labels", f"exact copy={exact}"),
        *("--second-annotator", "person"),
    )
    assert code == 0, text + err
    assert not {"person", "exact copy"} & set(table(out, "methods")["method"])
    pd.testing.assert_frame_equal(table(out, "methods"), table(analysed[0], "methods"))
    scores = table(out, "scores").set_index(["method", "split", "metric"])["value"]
    assert scores["exact copy", "test", "ap_mean"] == scores["exact copy", "test", "iou"] == 1
    assert 0 < scores["person", "test", "iou"] < 1
    errors = table(out, "errors").groupby(["method", "cause"])["true_cells"].sum()
    assert errors["exact copy", "missed"] == errors["exact copy", "merged"] == 0
    statistics = table(out, "statistics")
    own = statistics[(statistics["b"] == TRUTH) & (statistics["feature"] == "area")]
    bias = own.set_index("a")["difference"]
    assert bias["exact copy"] == 0
    assert bias["person"] < -1
    tested = own.set_index("a")
    assert tested["margin"]["exact copy"] == pytest.approx(-tested["unit_difference"]["person"])
    assert isinstance(tested["family"]["exact copy"], str)
    assert pd.isna(tested["family"]["person"]), "the two people's difference is not tested"
    page = visible(out / "report" / "index.html")
    assert "how far the means of ground truth and person are apart" in page
    assert "person (labels given)" in page
    assert "Rows with given labels are not ranked" in page
    settings = json.loads((out / "report" / "settings.json").read_text())
    assert settings["labels"] == {"person": str(person), "exact copy": str(exact)}


def test_labels_that_cannot_be_used_are_refused_in_one_line(
    analysed: tuple[Path, str], cells: Path, tmp_path: Path, analyse: Analyse
) -> None:
    out, _ = analysed
    good = labels_of_others(cells, tmp_path / "good", "_cp_masks")  # as Cellpose names them
    assert len(open_given([f"a={good}"], items_of(index_dataset(cells), None), ())) == 1
    few, small = (shutil.copytree(good, tmp_path / name) for name in ("few", "small"))
    (few / "i14_cp_masks.tif").unlink()
    tifffile.imwrite(small / "i13_cp_masks.tif", np.ones((4, 5), np.uint8))
    taken = table(out, "methods")["method"].iloc[0]
    for requests, words in (
        (["good"], "give NAME=FOLDER"),
        (["=x"], "give NAME=FOLDER"),
        ([f"a={tmp_path / 'none'}"], "no such folder"),
        ([f"a={few}"], "no label image for 1 of 6 measured images (i14)"),
        ([f"a={small}"], "i13_cp_masks.tif: shape (4, 5), but its image has"),
        ([f"{taken}={good}"], "is taken"),
        ([f"{TRUTH}={good}"], "is taken"),
        ([f"a={good}", f"a={good}"], "is taken"),
    ):
        options = [word for request in requests for word in ("--labels", request)]
        code, text, err = analyse(out, *options)
        assert (code, text) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    code, text, err = analyse(out, "--labels", f"a={good}", "--second-annotator", "b")
    assert (code, text) == (2, "")
    assert "no --labels b=FOLDER was given" in err
    assert err.count("\n") == 1


def test_what_is_missing_is_said(analysed: tuple[Path, str]) -> None:
    out, text = analysed
    missing = " ".join(json.loads((out / "report" / "settings.json").read_text())["missing"])
    page = (out / "report" / "index.html").read_text()
    for words in ("no_such_network", "StarDist", "i17"):
        assert words in missing
        assert words in page
        assert words in text


def test_calibration_is_kept_and_beside_the_checkpoint(analysed: tuple[Path, str]) -> None:
    out, text = analysed
    methods = table(out, "methods")
    methods["at_bound"] = methods["at_bound"].astype(object).fillna("")
    for row in methods.to_dict("records"):
        folder = out / "checkpoints" / row["trial_id"]
        stored = json.loads((folder / "calibration.json").read_text())
        if row["way"].endswith(GIVEN_BACK):
            stored = stored["given_back"]
        assert stored["ranges"] == json.loads(row["ranges"])
        assert stored["calibrated"] == json.loads(row["calibrated"])
        assert stored["at_bound"] == row["at_bound"].split()
    at_bound = int((methods["at_bound"] != "").sum())
    assert text.replace("\n", " ").count("lies at the end of its search range") == at_bound
    page = (out / "report" / "index.html").read_text()
    marked = sum(len(names.split()) for names in methods["at_bound"])
    assert page.count("(at the end of its range)") == marked


def test_the_same_command_again_gives_the_same_numbers(
    analysed: tuple[Path, str], analyse: Analyse
) -> None:
    out, _ = analysed
    before = {name: table(out, name) for name in ("scores", "statistics", "methods")}
    calibrations = {path: path.stat().st_mtime_ns for path in out.glob("checkpoints/*/cal*.json")}
    code, _, err = analyse(out, "--budget", 12, "--resamples", 300)
    assert code == 0, err
    assert len(calibrations) == 4
    assert all(path.stat().st_mtime_ns == then for path, then in calibrations.items())
    for name, frame in before.items():
        pd.testing.assert_frame_equal(table(out, name), frame)


@pytest.mark.slow  # an analysis of its own, and its statistics twice
def test_options_change_what_they_name(
    analysed: tuple[Path, str],
    swept: Path,
    cells: Path,
    tmp_path: Path,
    analyse: Callable[..., tuple[int, str, str]],
) -> None:
    """Every option at another value than usual, on other images, which are of three groups."""
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(swept, out, ignore=shutil.ignore_patterns("tune", "wandb"))
    stems = [f"i{n}" for n in range(12, 18)]
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
        for stem in stems:
            shutil.copy(cells / name / f"{stem}.tif", data / name)
    groups = ", ".join(f"{stem}: g{n // 2}" for n, stem in enumerate(stems))
    (data / "dataset.yaml").write_text(f"groups: {{{groups}}}\n")
    given = {"convention": "skimage", "unit": "image", "resamples": 40, "seed": 3}
    more = {"top": 1, "budget": 5}
    words = [word for name, value in (given | more).items() for word in (f"--{name}", value)]
    code, text, err = analyse(out, "--data", data, "--flips", *words)
    assert code == 0, text + err

    settings = json.loads((out / "report" / "settings.json").read_text())
    assert {name: settings[name] for name in given | more} == given | more
    assert settings["flips"] is True
    methods, usual = table(out, "methods"), table(analysed[0], "methods")
    assert methods["trial_id"].nunique() < usual["trial_id"].nunique(), "--top"
    for trial_id in methods["trial_id"]:
        stored = json.loads((out / "checkpoints" / trial_id / "calibration.json").read_text())
        assert (stored["budget"], stored["seed"], stored["flips"]) == (5, 3, True)

    objects = pd.read_parquet(out / "report" / "objects.parquet")
    assert set(objects["group"]) == {"g0", "g1", "g2"}
    truth = objects[(objects["method"] == TRUTH) & (objects["image"] == "i12")]
    labels = tifffile.imread(data / "masks" / "i12.tif")
    assert (
        truth["perimeter"].tolist() == measure(labels, convention="skimage")["perimeter"].tolist()
    )

    def same(name: str, computed: pd.DataFrame) -> bool:
        return table(out, name).equals(pd.read_csv(StringIO(computed.to_csv(index=False))))

    options: dict[str, Any] = {"unit": "image", "recommended": methods["method"].iloc[0]}
    objects = compared(objects)
    assert same(
        "statistics",
        comparisons(objects, convention="skimage", resamples=40, seed=3, **options),
    )
    assert not same("statistics", comparisons(objects, resamples=41, seed=4, **options))
    assert same("agreement", agreements(objects, unit="image"))
    assert not same("agreement", agreements(objects, unit="group"))
    assert same("noise", noise_of(objects, "skimage", seed=3))
    assert not same("noise", noise_of(objects, "skimage"))
    assert not same("noise", noise_of(objects, "trackmate", seed=3))

    scores, before = table(out, "scores"), table(analysed[0], "scores")
    assert set(scores.loc[scores["split"] == "other", "units"]) == {6}, "images, not groups"
    keys = ["trial_id", "method", "split", "parameters", "metric"]
    both = scores.merge(before, on=keys, suffixes=("", "_before"))
    both = both[(both["parameters"] == "default") & (both["split"] == "val")]
    assert len(both)
    assert (both["value"] != both["value_before"]).any(), "--flips"


def as_recipe_1(out: Path) -> None:
    """Make a run folder what versions of recipe 1 wrote: less in every file."""
    plan = json.loads((out / "plan.json").read_text())
    for name in ("recipe", "precision", "run_token", "wandb_group"):
        del plan[name]
    del plan["data"]["options"]["gap_frames"]
    manifests = list(out.glob("checkpoints/*/checkpoint.json"))
    contents = {path: json.loads(path.read_text()) for path in manifests}
    for manifest in contents.values():
        del manifest["recipe"], manifest["inference"], manifest["data"]["appearance"]
        manifest["task"].pop("at_bound", None)
    for config in [t["config"] for t in plan["trials"]] + [m["config"] for m in contents.values()]:
        del config["gap"], config["weights_id"], config["normalization"]["mode"]
        config["precision"] = "auto"
    (out / "plan.json").write_text(json.dumps(plan))
    for path, manifest in contents.items():
        path.write_text(json.dumps(manifest))
    board = pd.read_csv(out / "leaderboard.csv")
    board.loc[:, :"micro_batch"].to_csv(out / "leaderboard.csv", index=False)
    (out / "per_image.csv").unlink()


@pytest.mark.parametrize("recipe", [2, 1])
def test_half_finished_and_without_ways(
    recipe: int, swept: Path, tmp_path: Path, analyse: Analyse
) -> None:
    out = tmp_path / "half"
    shutil.copytree(swept, out)
    board = pd.read_csv(out / "leaderboard.csv")
    kept = board.loc[(board["task"] == "semantic2") & (board["status"] == "done"), "trial_id"]
    gone = board["status"].eq("done") & ~board["trial_id"].isin(kept[:1])
    board.loc[gone, "status"] = "waiting"
    for trial_id in board.loc[gone, "trial_id"]:
        shutil.rmtree(out / "checkpoints" / trial_id)
    board.to_csv(out / "leaderboard.csv", index=False)
    (out / "candidates.csv").unlink()
    if recipe == 1:
        as_recipe_1(out)
        done = read_run(out).configs[kept.iloc[0]]
        assert (done.task, done.gap) == ("semantic2", 1), "its targets always had a gap"
    code, text, err = analyse(out, "--budget", 4, "--resamples", 50)
    assert code == 0, err
    assert "not finished: 3 of 5" in text
    assert text.count("was trained with an earlier version (recipe 1)") == (recipe == 1)
    assert "'3-class'" in text
    assert (out / "report" / "index.html").is_file()


def test_only_images_without_cells(
    swept: Path, cells: Path, tmp_path: Path, analyse: Analyse, hashed: Counter[Path]
) -> None:
    out, data = tmp_path / "run", tmp_path / "empty"
    shutil.copytree(swept, out)
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number, shape in enumerate([(70, 80), (200, 230)]):
        pixels = rng.normal(1000, 30, shape).astype(np.uint16)
        tifffile.imwrite(data / "images" / f"e{number}.tif", pixels)
        tifffile.imwrite(data / "masks" / f"e{number}.tif", np.zeros(shape, np.uint16))
    code, text, err = analyse(out, "--data", data, "--budget", 4, "--top", 1)
    assert code == 0, text + err
    assert "Images without any true cell: e0, e1" in text
    assert "230x200 pixels) are much larger than the largest training image (110x96)" in text
    assert (out / "report" / "index.html").is_file()
    files = [path for root in (cells, data) for path in root.glob("*/*.tif")]
    assert {hashed[path] for path in files} == {1}
