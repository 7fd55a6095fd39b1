"""What a trial gets after running out of memory."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.limits import (
    Limits,
    after_shortage,
    limits_from,
    next_host_limits,
    next_limits,
    reservable_on,
)
from trainables.config import RunOptions, TrialConfig


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


def test_limits_in_words() -> None:
    assert str(Limits()) == "no limit"
    assert str(Limits(gpu=1 / 3)) == "0.333 GPU"
    assert str(Limits(gpu=1, memory_gb=30.123)) == "1 GPU, 30.1 GB of the node"
    assert str(Limits(memory_gb=2, micro_batch=4)) == "2 GB, micro-batches of 4"
    assert str(Limits(memory_gb=0.0)) == "0 GB"


def test_threads_follow_the_cores() -> None:
    assert "threads" not in Limits().options()
    assert Limits(cpus=2.9).options()["threads"] == 2
    assert Limits(cpus=0.5).options()["threads"] == 1
    assert Limits(cpus=1.0).options()["threads"] == 1


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(gpu=0.25, micro_batch=4, cpus=2),
        Limits(gpu=2.0, memory_gb=8),
        Limits(memory_gb=4, enforced=True),
    ],
)
def test_options_are_those_of_a_trial(limits: Limits) -> None:
    options = RunOptions(**limits.options())
    assert options.device == ("cuda" if limits.gpu else "cpu")
    assert options.gpu_fraction == (limits.gpu if 0 < limits.gpu < 1 else None)
    assert options.micro_batch == limits.micro_batch
    assert options.memory_gb == (4 if limits.enforced else None)
    assert Limits(**limits.to_dict()) == limits


def test_memory_of_a_gpus_node_is_not_enforced() -> None:
    assert Limits(gpu=0.5, memory_gb=4, enforced=True).options()["memory_gb"] is None


def test_shares_end_at_a_whole_gpu() -> None:
    assert next_limits(Limits(gpu=0.6), TrialConfig()) == Limits(gpu=1.0)
    whole = next_limits(Limits(gpu=1.0, cpus=2), TrialConfig(batch_size=8), 500)
    assert whole == Limits(gpu=1.0, micro_batch=4, cpus=2), "memory of the node does not help"
    official = TrialConfig(task="stardist", architecture="StarDist")
    assert next_limits(Limits(gpu=0.5), official) == Limits(gpu=1.0)
    assert next_limits(Limits(gpu=1.0), official) is None


def test_a_nodes_memory_is_doubled_up_to_all_of_it() -> None:
    assert next_limits(Limits(memory_gb=6), TrialConfig(), 10) == Limits(memory_gb=10)
    assert next_limits(Limits(memory_gb=5), TrialConfig(), 10) == Limits(memory_gb=10)
    assert next_limits(Limits(memory_gb=4), TrialConfig(), 10) == Limits(memory_gb=8)
    all_of_it = next_limits(Limits(memory_gb=10), TrialConfig(batch_size=5), 10)
    assert all_of_it == Limits(memory_gb=10, micro_batch=3)
    assert next_host_limits(Limits(gpu=1, memory_gb=20), 30) == Limits(gpu=1, memory_gb=30)
    assert next_host_limits(Limits(gpu=1, memory_gb=0.5), 30) == Limits(gpu=1, memory_gb=1)
    assert next_host_limits(Limits(gpu=1, memory_gb=31), 30) is None


def test_the_node_that_was_short_is_asked() -> None:
    asked: list[str] = []

    def reservable(node: str) -> float | None:
        asked.append(node)
        return 12.0

    def after(limits: Limits, host: bool) -> tuple[Limits | None, str]:
        return after_shortage(
            limits,
            TrialConfig(batch_size=8),
            host=host,
            node="n7",
            most_memory_gb=10,
            reservable=reservable,
        )

    assert after(Limits(gpu=1), True) == (
        Limits(gpu=1, memory_gb=12),
        "train it on a node with more memory, or leave cores free with cpus_per_trial",
    )
    assert asked == ["n7"]
    assert after(Limits(memory_gb=3), False) == (
        Limits(memory_gb=6),
        "it does not fit; try a smaller batch_size or crop_size",
    )
    assert after(Limits(memory_gb=10), False)[0] == Limits(memory_gb=10, micro_batch=4)
    assert asked == ["n7"], "only where the node's memory was short"


def test_a_record_without_limits_leaves_the_default() -> None:
    default = Limits(memory_gb=1)
    assert limits_from({"status": "running"}, default) == default
    assert limits_from({"status": "running", "retry": None, "limits": None}, default) == default
    ended = {"status": "done", "retry": Limits(gpu=1).to_dict()}
    assert limits_from(ended, default) == default


def test_memory_that_can_be_reserved_on_a_node() -> None:
    def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
        return {"NodeID": name, "Alive": alive, "Resources": resources}

    nodes = [
        node("a", memory=2.0**30),
        node("b", False, memory=2.0**30),
        node("c", CPU=4.0),
        node("d", memory=2.9999 * 2**30),
        node("e", memory=0.5 * 2**30),
    ]
    found = {name: reservable_on(nodes, name) for name in "abcdef"}
    # a node that has left, one without memory, one that is not known; never rounded up
    assert found == {"a": 1.0, "b": None, "c": None, "d": 2.999, "e": 0.5, "f": None}
    assert reservable_on([node("b", False), node("b", memory=3 * 2.0**30)], "b") == 3.0
