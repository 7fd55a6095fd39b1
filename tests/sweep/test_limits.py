"""What a trial gets after running out of memory."""

from __future__ import annotations

import pytest

from sweep.limits import Limits, after_shortage, limits_from, next_host_limits, next_limits
from trainables.config import TrialConfig


def ladder(limits: Limits, config: TrialConfig, most: float | None = None) -> list[str]:
    steps, now = [], next_limits(limits, config, most)
    while now is not None:
        steps.append(str(now))
        now = next_limits(now, config, most)
    return steps


def test_larger_shares_come_before_smaller_batches() -> None:
    assert ladder(Limits(gpu=0.25), TrialConfig(batch_size=8)) == [
        "0.5 GPU",
        "1 GPU",
        "1 GPU, micro-batches of 4",
        "1 GPU, micro-batches of 2",
    ]
    assert ladder(Limits(memory_gb=3), TrialConfig(batch_size=4), most=10) == [
        "6 GB",
        "10 GB",
        "10 GB, micro-batches of 2",
    ]


def test_a_trial_without_a_reservation_runs_alone_first() -> None:
    alone = next_limits(Limits(), TrialConfig(batch_size=8), 12)
    assert alone == Limits(memory_gb=12)
    assert ladder(Limits(), TrialConfig(batch_size=4), most=12) == [
        "12 GB",
        "12 GB, micro-batches of 2",
    ]


@pytest.mark.parametrize("size", range(2, 20))
def test_micro_batches_shrink_and_are_never_below_two(size: int) -> None:
    config, sizes = TrialConfig(batch_size=size), [size]
    now = next_limits(Limits(gpu=1), config)
    while now is not None:
        assert now.micro_batch is not None
        sizes.append(now.micro_batch)
        now = next_limits(now, config)
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] in (2, 3)[: 1 + (size == 3)]


def test_nothing_is_left() -> None:
    assert ladder(Limits(), TrialConfig(batch_size=2)) == []
    assert ladder(Limits(memory_gb=1), TrialConfig(batch_size=2)) == []
    official = TrialConfig(task="stardist", architecture="StarDist")
    assert ladder(Limits(memory_gb=1), official, most=4) == ["2 GB", "4 GB"]


def test_options_enforce_what_a_device_has() -> None:
    assert Limits(gpu=0.5, memory_gb=4).options() == {
        "device": "cuda",
        "gpu_fraction": 0.5,
        "memory_gb": None,
        "micro_batch": None,
    }
    assert Limits(gpu=1).options()["gpu_fraction"] is None
    assert Limits(memory_gb=4, enforced=True).options()["memory_gb"] == 4
    assert Limits(memory_gb=4).options()["memory_gb"] is None


def test_the_device_follows_the_share() -> None:
    assert Limits(gpu=1).options()["device"] == "cuda"
    assert Limits(gpu=0.1).options()["device"] == "cuda"
    assert Limits().options()["device"] == "cpu", "also where torch would find a GPU"


def test_a_nodes_memory_is_not_a_gpus() -> None:
    config = TrialConfig(batch_size=8)
    alone, advice = after_shortage(
        Limits(gpu=0.5), config, host=True, node="n", most_memory_gb=500, reservable=lambda _: 30.0
    )
    assert alone == Limits(gpu=0.5, memory_gb=30), "neither share nor batches change"
    assert str(alone) == "0.5 GPU, 30 GB of the node"
    assert next_host_limits(Limits(gpu=0.5, memory_gb=8), 30) == Limits(gpu=0.5, memory_gb=16)
    assert next_host_limits(Limits(gpu=0.5, memory_gb=30), 30) is None
    assert next_host_limits(Limits(gpu=0.5), None) is None
    assert "node with more memory" in advice
    share, advice = after_shortage(
        Limits(gpu=0.5), config, host=False, node="n", most_memory_gb=500
    )
    assert share == Limits(gpu=1)
    assert "batch_size" in advice


def test_an_interrupted_trial_keeps_what_it_was_given() -> None:
    default, more = Limits(memory_gb=1), Limits(memory_gb=2)
    assert limits_from(None, default) == default
    assert limits_from({"status": "running", "limits": more.to_dict()}, default) == more
    retry = {"status": "running", "limits": default.to_dict(), "retry": more.to_dict()}
    assert limits_from(retry, default) == more
    assert limits_from({"status": "failed", "limits": more.to_dict()}, default) == default
