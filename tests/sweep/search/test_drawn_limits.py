"""What trials of a search may take: the same as those of a grid, found when they are drawn."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweep.estimates import ESTIMATED, default_cache
from sweep.request import SweepSettings
from sweep.resources import Resources, first_limits
from sweep.search.drawn_limits import DrawnLimits
from trainables.config import TrialConfig
from trainables.footprint import Footprint, footprint_key

SHAPE = (96, 128)
CONFIGS = {f"t{size}": TrialConfig(batch_size=size) for size in (4, 8, 16)}
NEEDS = {"t4": 2000.0, "t8": 5000.0, "t16": 40000.0}
"""MiB."""


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Footprint]:
    """Networks whose estimates are in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = {}
    for name, config in CONFIGS.items():
        known[name] = Footprint(10**7, 0.0, NEEDS[name], 10.0, False)
        default_cache().put(footprint_key(config, ESTIMATED, image_shape=SHAPE), known[name])
    return known


def limits(resources: Resources, memory: float | None, **settings: Any) -> DrawnLimits:
    return DrawnLimits(SweepSettings(**settings), resources, SHAPE, memory)


def test_shares_of_gpus_are_those_of_a_grid(estimated: dict[str, Footprint]) -> None:
    resources = Resources(8, 2, 64.0)
    made = limits(resources, 16.0)
    drawn = {name: made.of(name, config) for name, config in CONFIGS.items()}
    grid = first_limits(SweepSettings(), resources, estimated, 16.0)
    assert drawn == {name: grid[name] for name in CONFIGS}
    assert len({one.gpu for one in grid.values()}) == 3, "one of a few, of two, and a whole one"


def test_a_share_that_is_given_holds_for_all(estimated: dict[str, Footprint]) -> None:
    for settings, memory in (({"gpus_per_trial": 0.5}, 16.0), ({}, None)):
        made = limits(Resources(8, 2, 64.0), memory, **settings)
        assert {made.of(name, config) for name, config in CONFIGS.items()} == {made[""]}


def test_memory_is_reserved_on_cpus_where_it_could_get_short(
    estimated: dict[str, Footprint],
) -> None:
    made = limits(Resources(2, 0, 16.0), None)
    assert made.of("t4", CONFIGS["t4"]) == made[""], "two of these fit"
    large = made.of("t16", CONFIGS["t16"])
    assert large is not None
    assert large.memory_gb == 16
    small = made.of("t8", CONFIGS["t8"])
    assert small is not None
    assert small.memory_gb == 8, "beside large ones, small ones are counted, too"


@pytest.mark.slow
def test_a_new_network_is_estimated_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = TrialConfig(architecture="Linknet", encoder="mobilenet_v2", crop_size=64)
    with closing(limits(Resources(8, 1, 64.0), 16.0)) as made:
        assert made.of("new", config) is None
        end = time.monotonic() + 500
        while (found := made.of("new", config)) is None:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert 0 < found.gpu < 1
