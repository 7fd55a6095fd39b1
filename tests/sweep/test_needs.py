"""From footprints to limits, order and plan."""

from __future__ import annotations

import io
import json
import re
import statistics
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from sweep.estimates import Estimates, as_items
from sweep.limits import Limits
from sweep.packing import order_large_first
from sweep.preview import storage_gb, warn_of_storage
from sweep.request import RequestError, SweepSettings
from sweep.resources import Gpus, Node, Resources, at_once, first_limits, parse_gpus
from sweep.run import main
from sweep.search.drawn_limits import DrawnLimits
from sweep.throughput import THROUGHPUT
from trainables.config import EpochRecord, RunOptions, TrialConfig
from trainables.data.dataset import open_dataset
from trainables.footprint import Footprint, FootprintCache
from trainables.records.resumable import KEPT


def need(peak_mb: float, gflops: float = 10.0, parameters: int = 10**7) -> Footprint:
    return Footprint(
        parameters=parameters, activation_mb=1.0, peak_mb=peak_mb, gflops=gflops, measured=False
    )


def test_a_trial_gets_the_largest_share_that_holds_it() -> None:
    resources = Resources(cpus=32, gpus=4)
    needs = {"small": need(1000), "large": need(14000), "huge": need(60000)}
    limits = first_limits(SweepSettings(), resources, needs, gpu_memory_gb=32)
    assert limits["small"].gpu == pytest.approx(1 / 8, abs=1e-3)
    assert limits["large"].gpu == pytest.approx(1 / 2, abs=1e-3)
    assert limits["huge"].gpu == 1  # it will not fit whole batches
    assert limits[""].gpu == 1
    assert at_once(SweepSettings(), resources, limits, ["large"] * 8) == 8
    # what the user asks for stands
    asked = first_limits(SweepSettings(gpus_per_trial=0.5), resources, needs, 32)
    assert set(asked) == {""}
    assert asked[""].gpu == 0.5


def test_the_official_stardist_holds_no_gpu_and_gets_cores() -> None:
    configs = {
        "net": TrialConfig(),
        "official": TrialConfig(task="stardist", architecture="StarDist"),
    }
    needs = {"net": need(14000), "official": need(1000)}
    node = Resources(cpus=16, gpus=2, node_cpus=8)
    limits = first_limits(SweepSettings(), node, needs, 32, configs)
    assert limits["official"] == Limits(cpus=4)
    assert limits["official"].options()["device"] == "cpu"
    assert limits["official"].options()["threads"] == 4
    assert limits["net"].gpu == pytest.approx(1 / 2, abs=1e-3)
    # also where the user says what trials hold
    half = first_limits(SweepSettings(gpus_per_trial=0.5), node, needs, 32, configs)
    assert (half["official"].gpu, half[""].gpu) == (0, 0.5)
    small = Resources(cpus=4, gpus=1, node_cpus=4)
    assert first_limits(SweepSettings(), small, needs, 32, configs)["official"].cpus == 2
    asked = SweepSettings(stardist_cpus=7)
    assert first_limits(asked, small, needs, 32, configs)["official"].cpus == 7
    shared = first_limits(SweepSettings(stardist_gpus=0.25), node, needs, 32, configs)
    assert shared["official"] == Limits(gpu=0.25)
    # two networks by their shares; four of StarDist by its cores
    assert at_once(SweepSettings(), node, limits, ["net"] * 8) == 4
    assert at_once(SweepSettings(), node, limits, ["official"] * 8) == 4
    items = {i.name: i for i in as_items(configs, needs, limits, THROUGHPUT["V100"], lambda _: 90)}
    assert items["official"].seconds > 5 * items["net"].seconds, "it computes on cores"
    drawn = DrawnLimits(SweepSettings(), node, (64, 64), 16.0)
    assert drawn.of("drawn by a search", configs["official"]) == Limits(cpus=4)
    # without GPUs nothing is special about it
    cpus = first_limits(SweepSettings(), Resources(cpus=8, gpus=0), needs, None, configs)
    assert set(cpus) == {""}


def test_memory_is_reserved_on_cpus_and_enforced_when_asked_for() -> None:
    resources = Resources(cpus=2, gpus=0, memory_gb=12)
    limits = first_limits(SweepSettings(), resources, {"a": need(2048), "b": need(10**6)})
    assert limits["a"].memory_gb == 4  # rounded up
    assert limits["b"].memory_gb == 12  # all there is: it runs alone
    assert not limits["a"].enforced
    odd = Resources(cpus=2, gpus=0, memory_gb=22.95373)
    most = first_limits(SweepSettings(), odd, {"b": need(10**6)})["b"].memory_gb
    assert most == 22.953, "more than the node has is waited for for ever"
    assert at_once(SweepSettings(), resources, limits, ["a", "a"]) == 2
    assert at_once(SweepSettings(), resources, limits, ["b", "b"]) == 1
    plenty = first_limits(SweepSettings(), resources, {"a": need(2048), "c": need(1024)})
    assert set(plenty) == {""}, "nothing can get short: all trials share their workers"
    asked = first_limits(SweepSettings(memory_per_trial=3), resources, {"a": need(2048)})
    assert asked == {"": Limits(memory_gb=3, enforced=True)}


def cluster(*nodes: tuple[float, float]) -> Resources:
    there = tuple(Node(*node) for node in nodes)
    memory = max(node.memory_gb for node in there)
    return Resources(sum(node.cpus for node in there), 0, memory, nodes=there)


def test_memory_is_counted_node_by_node() -> None:
    settings = SweepSettings()
    # a trial needs 3.4 GB, and each node has one core for one trial
    needs = {"a": need(2048)}
    plain = first_limits(settings, cluster((1, 4), (1, 4)), needs)
    assert set(plain) == {""}, "no node can run short"
    assert at_once(settings, cluster((1, 4), (1, 4)), plain, ["a", "a"]) == 2
    # two cores, but memory for one trial
    pair = cluster((2, 5), (2, 5))
    limits = first_limits(settings, pair, needs)
    assert limits["a"].memory_gb == 4
    assert at_once(settings, pair, limits, ["a"] * 4) == 2
    assert at_once(SweepSettings(concurrency=1), pair, limits, ["a"] * 4) == 1
    # the smaller of two nodes decides
    unequal = cluster((2, 64), (2, 5))
    assert first_limits(settings, unequal, needs)["a"].memory_gb == 4
    assert at_once(settings, unequal, limits, ["a"] * 4) == 3
    # a head without cores adds nothing; what fits nowhere is still one trial
    assert at_once(settings, cluster((0, 64), (2, 5)), limits, ["a"] * 4) == 1
    assert at_once(settings, cluster((2, 3), (2, 3)), limits, ["a"] * 4) == 1


def test_trials_that_take_longest_come_first() -> None:
    configs = {
        "short": TrialConfig(epochs=5),
        "long": TrialConfig(epochs=50),
        "unknown": TrialConfig(epochs=1),
        "heavy": TrialConfig(epochs=5),
    }
    needs = {"short": need(1, 5), "long": need(1, 5), "heavy": need(1, 500)}
    items = as_items(configs, needs, {"": Limits(gpu=1)}, THROUGHPUT["V100"], lambda _: 90)
    names = [item.name for item in order_large_first(items)]
    assert names[0] == "heavy"
    assert names[-1] == "short"
    assert {item.share for item in items} == {1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", Gpus(2)), ("4xV100-32", Gpus(4, "V100", 32)), ("1xA100", Gpus(1, "A100"))],
)
def test_gpus_as_told(text: str, expected: Gpus) -> None:
    assert parse_gpus(text) == expected
    with pytest.raises(RequestError, match="such as 4xV100-32"):
        parse_gpus(text + "!")


def test_estimates_are_kept(tmp_path: Path) -> None:
    cache = FootprintCache(tmp_path / "footprints.json")
    configs = {"a": TrialConfig(crop_size=64, batch_size=2), "b": TrialConfig(architecture="FPN")}
    first = Estimates(configs, (96, 96), cache)
    assert first.waiting == 2
    found = first.result()
    assert set(found) == {"a", "b"}
    again = Estimates(configs, (96, 96), cache)
    assert again.waiting == 0
    assert again.result() == found
    with closing(Estimates(configs, (200, 96), cache)) as larger:
        assert larger.waiting == 2


@pytest.fixture
def plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Plan in this process, with nothing estimated before; return what is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def planned(*words: str) -> str:
        assert main([*words, "--plan"]) == 0
        text, err = capsys.readouterr()
        assert err == ""
        return text

    return planned


def test_a_plan_shows_shares_packing_and_makespan(
    plan: Callable[..., str], tiny_dataset: Path, tmp_path: Path
) -> None:
    words = ("--gpus", "2xV100-32", "--only", "architecture=Unet,FPN,StarDist")
    text = plan("demo", "--data", str(tiny_dataset), *words)
    assert "5 trials" in text
    assert len(re.findall(r"0\.\d+ GPU", text)) == 4
    assert "in addition, 1 trial on CPU cores; the longest takes about" in text
    assert re.search(r"GPU 1 +\d+ trials", text)
    assert re.search(r"about \d+ (s|min) in all", text)
    assert re.search(r"checkpoints need about [\d.]+ GB of disk; \d+ GB are free", text)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    kept = json.loads((tmp_path / "cache" / "segsweep" / "footprints.json").read_text())
    assert len(kept) == 5


@pytest.mark.slow
def test_states_are_as_large_as_estimated(tiny_dataset: Path, tmp_path: Path) -> None:
    from trainables.train import train

    config = TrialConfig(encoder="mobilenet_v2", crop_size=64, batch_size=4, epochs=4)
    sizes: dict[str, int] = {}

    def look(record: EpochRecord) -> None:
        sizes.update({path.name: path.stat().st_size for path in (tmp_path / "t").iterdir()})

    often = RunOptions(checkpoint_seconds=0)
    result = train(config, open_dataset(tiny_dataset), tmp_path / "t", options=often, on_epoch=look)
    found = storage_gb({"t": need(1.0, parameters=round(result.parameters_m * 1e6))}, 1, tmp_path)
    states = [size for name, size in sizes.items() if name.startswith("resume-")]
    best = [size for name, size in sizes.items() if name.startswith("best-")]
    assert len(states) == 3  # the last epoch's is not needed
    one = (found.most - found.stays) / (KEPT + 1)
    assert statistics.fmean(states) + statistics.fmean(best) == pytest.approx(one * 1e9, rel=0.1)
    left = sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    assert left == pytest.approx(found.stays * 1e9, rel=0.1)


def test_a_disk_that_may_fill_up_is_said(tmp_path: Path) -> None:
    large = {str(k): need(1.0, parameters=500 * 10**6) for k in range(3)}
    found = storage_gb(large, 2, tmp_path / "runs" / "mine")
    # weights of 2 GB each; a state is three times that and the best weights
    assert found.stays == pytest.approx(3 * 2)
    # two states of each that runs, a third of one of them, and the weights of the one that ended
    assert found.usual == pytest.approx(2 * 2 * (6 + 2) + (6 + 2) + 2)
    assert found.most == pytest.approx(3 * 2 + 2 * 3 * (6 + 2))
    assert found.free > 0
    # each that ended keeps a state, too
    kept = storage_gb(large, 2, tmp_path, keep_last=True)
    assert kept.stays == pytest.approx(3 * (2 + 6 + 2))
    assert kept.usual == pytest.approx(found.usual + 6 + 2)
    # where few run at once, the end needs most
    many = {str(k): need(1.0, parameters=10**6) for k in range(100)}
    assert storage_gb(many, 1, tmp_path).usual == pytest.approx(0.4 + 11 * 0.004)
    said = Console(file=io.StringIO(), width=300)
    full = dict.fromkeys("ab", need(1.0, parameters=10**18))
    warn_of_storage(said, storage_gb(full, 1, tmp_path))
    assert "free some space" in said.file.getvalue()  # type: ignore[attr-defined]
    quiet = Console(file=io.StringIO())
    warn_of_storage(quiet, storage_gb({"a": need(1.0, parameters=1)}, 1, tmp_path))
    assert not quiet.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "count"),
    [("paper", 40), ("three_class", 12), ("stardist", 4), ("study", 56), ("compare", 12)],
)
def test_the_studys_spaces_are_complete(space: str, count: int, plan: Callable[..., str]) -> None:
    text = plan(space, "--gpus", "4xV100-32")
    assert f"{count} trials" in text
    assert len(re.findall(r"\d GPU ", text)) >= count
