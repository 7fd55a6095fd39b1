"""README and docs say what is so: command lines parse, names exist; pasted in order, they work."""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SearchSpace, grid
from sweep.request import SweepSettings, load_space, make_request
from sweep.selection import only
from trainables.config import TrialConfig
from trainables.data.splits import DataOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = ".venv/bin/python"
OURS = ("sweep", "trainables", "search_spaces", "analysis", "benchmarks", "tests", "docs")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def shell_lines(text: str) -> list[str]:
    """Return the command lines of fenced blocks without a language, comments taken away."""
    lines = []
    for language, block in FENCE.findall(text):
        if language not in ("", "bash", "sh"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"make |\.venv/bin/|cd ", line):
                lines.append(shlex.join(shlex.split(line, comments=True)))
    return lines


def spans(text: str) -> list[str]:
    """Return what stands between backticks outside fenced blocks."""
    return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def commands(text: str) -> Iterator[str]:
    prose = (span for span in spans(text) if re.match(rf"{re.escape(PYTHON)} |.*&& ", span))
    for line in [*shell_lines(text), *prose]:
        for start in re.finditer(rf"{re.escape(PYTHON)} ", line):
            yield line[start.start() :].split("'")[0]


class Parsed(Exception):
    """Carries what a command line means, before anything is done."""


def parsed(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        raise Parsed(real(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed) as caught:
            importlib.import_module(module).main(words)
    found = caught.value.args[0]
    assert isinstance(found, argparse.Namespace)
    return found


def option_names(module: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    def parse_args(self: argparse.ArgumentParser, *_: Any) -> Any:
        raise Parsed(self)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed) as caught:
            importlib.import_module(module).main([])
    parsers, names = [caught.value.args[0]], set()
    for parser in parsers:
        for action in parser._actions:
            names |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.name != "README.md" or len(shell_lines(text)) >= 8
    for line in commands(text):
        words = shlex.split(line.replace("/...", ""))[1:]
        assert words, line
        if words[0] != "-m":
            assert words[0] == "-c" or (ROOT / words[0]).is_file(), line
            continue
        module, words = words[1], words[2:]
        assert importlib.util.find_spec(module) is not None, line
        if not words:
            continue  # a command's name
        try:
            found = parsed(module, words, monkeypatch)
        except SystemExit as error:
            pytest.fail(f"{page.name}: {line}: exit {error.code}")
        if module == "sweep.run" and not re.search(r"\.py$|^\.\.\.$|^[A-Z]", found.space):
            name, space = load_space(found.space)
            only(make_request(name, space, found.changes, found.seeds), found.only)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_called_in_one_way(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w./])python3? (?:-m|-c|\w+/)[^\n`]*", text)
    assert not re.findall(r"(?<![\w./])(?:pip install|wandb login)[^\n`]*", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        there = (page.parent / target) if target else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs, f"{target}#{anchor}"
    for span in spans(text):
        if re.fullmatch(rf"(?:{'|'.join(OURS)})/[\w./-]+", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"
        elif span.startswith("make ") and span.split()[1].islower():
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert span.split()[1] in targets, f"{page.name}: {span}"


def test_options_and_settings_of_the_readme_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = ("sweep.run", "analysis.run", "analysis.segment", "trainables.data")
    known = set().union(*(option_names(module, monkeypatch) for module in modules))
    fields = {**TrialConfig.model_fields, **SweepSettings.model_fields, **DataOptions.model_fields}
    space = SearchSpace(trials=grid(architecture="Unet", encoder="resnet18"))
    checked = 0
    for span in spans(text):
        for option in re.findall(r"(?<!\S)--[a-z-]+", span):
            assert option in known, span
        for setting in re.findall(r"(?:^|--set )([a-z_]+=[\w.,| ]+)", span):
            if setting != "key=value":
                key, _, values = setting.partition("=")
                assert key in fields, span
                values = values.replace("|", ",").replace(" ", "")
                many = values.split(",") if key in TrialConfig.model_fields else [values]
                base = {"boundary": ["task=semantic3"], "search": ["loss=dice,focal"]}.get(key, [])
                for value in many:
                    make_request("one", space, [*base, f"{key}={value}"], None)
                checked += 1
    assert checked >= 10


def test_the_table_of_spaces_counts_their_trials() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.M))
    files = {p.stem for p in (ROOT / "search_spaces").glob("[a-z]*.py")}
    assert set(rows) == files
    for name, count in rows.items():
        _, space = load_space(name)
        assert int(count) == space.settings.get("samples", len(space.trials)), name


def a_fresh_clone(folder: Path) -> Path:
    """Copy what git knows of the working tree, and what is new in it; with this environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def my_data(cells: Path, folder: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
        for number, path in enumerate(sorted((cells / name).iterdir())):
            shutil.copyfile(path, folder / name / f"t{number:03d}.tif")


def pasted(line: str, clone: Path) -> Iterator[str]:
    """Yield what is run for a line of the README: `make demo` as its recipe has it without the
    installation; sweeps with what the README itself offers to make them short; `make test` is this.
    """
    if line == "make demo":
        recipe = subprocess.run(
            ["make", "-n", "demo"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout
        steps = [step.strip() for step in recipe.splitlines() if f"{PYTHON} -m " in step]
        steps = [step for step in steps if " pip " not in step and "ensurepip" not in step]
        assert len(steps) == 2
        for step in steps:
            yield from pasted(step, clone)
    elif line != "make test":
        short = " --set epochs=1" if "-m sweep.run" in line and "--plan" not in line else ""
        part = " --only architecture=Unet,FPN,StarDist" if short and "--only" not in line else ""
        yield line + short + part


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_readmes_lines_pasted_in_order_do_what_they_say(cells: Path, tmp_path: Path) -> None:
    clone = a_fresh_clone(tmp_path / "clone")
    my_data(cells, clone / "my_data")
    drop = ("RAY_ADDRESS", "WANDB_API_KEY", "WANDB_MODE", "PYTHONPATH", "MAKEFLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in drop}

    def run(*words: str) -> str:
        done = subprocess.run(
            words, cwd=clone, env=environment, text=True, capture_output=True, timeout=3000
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    text, said = (clone / "README.md").read_text(encoding="utf-8"), {}
    for line in shell_lines(text):
        for command in pasted(line, clone):
            print(command, flush=True)
            said[command] = run("bash", "-c", command)
    for name in (
        "runs/demo/leaderboard.csv",
        "runs/demo/report/index.html",
        "cells/objects.csv",
        "runs/compare-my_data/leaderboard.csv",
        "runs/compare-my_data/report/index.html",
    ):
        assert (clone / name).is_file(), name
    assert len(list((clone / "cells" / "labels").iterdir())) == 18
    (segmented,) = (out for line, out in said.items() if "analysis.segment" in line)
    assert "different from the model's training images" not in segmented
    (plan,) = (out for line, out in said.items() if "--plan" in line)
    assert "12 trials" in plan
    assert "note: validation has 4 independent groups, fewer than 6" in plan
    with open(clone / "runs/demo/leaderboard.csv", newline="") as handle:
        board = list(csv.DictReader(handle))
    assert {row["status"] for row in board} == {"done"}
    assert {row["encoder"] for row in board} == {"resnet18", "resnet34", "none"}
    # the demo's winner knows other images
    other = f"{PYTHON} -m analysis.segment --model runs/demo my_data/images --out other"
    warned = "checked images look different from the model's training images"
    assert warned in run("bash", "-c", other)
    (code,) = (block for language, block in FENCE.findall(text) if language == "python")
    code = code.replace("TRIAL_ID", board[0]["trial_id"])
    shape = run(PYTHON, "-c", f"{code}\nprint(mask.dtype, mask.shape)")
    assert shape.split("\n")[-2] == "bool (96, 110)"
