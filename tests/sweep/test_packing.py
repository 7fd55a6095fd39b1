"""Sharing, ordering and timing of trials, by hand and by property."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.packing import (
    PackedTrial as Trial,
)
from sweep.packing import (
    Packing,
    Share,
    cpu_memory_mb,
    format_time,
    gpu_fraction,
    order_large_first,
    render,
    simulate,
)
from sweep.throughput import (
    CPU,
    CPU_BF16,
    THROUGHPUT,
    Throughput,
    estimate_seconds,
    throughput,
)
from trainables.config import TrialConfig
from trainables.footprint import Footprint

ITEMS = st.lists(
    st.builds(
        Trial,
        name=st.just("t"),
        seconds=st.floats(0, 1e5),
        share=st.sampled_from([1.0, 0.5, 0.3333, 0.25, 0.2, 0.1666, 0.1428, 0.125]),
        memory_mb=st.sampled_from([0.0, 100.0]),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("peak", "gpu", "expected"),
    [
        (9000, 32768, Share(3, 0.3333)),  # 9900 + 600 three times is 31500
        (14894, 32768, Share(1, 1.0)),  # 16983.4 is more than half
        (14000, 32768, Share(2, 0.5)),
        (29243, 32768, None),  # 32167 + 600 is just more: 32767.3 fits, one MiB on does not
        (100, 32768, Share(8, 0.125)),  # never more than eight
    ],
)
def test_gpu_fraction_by_hand(peak: float, gpu: float, expected: Share | None) -> None:
    if expected is None:
        assert gpu_fraction(peak, gpu) == Share(1, 1.0)
        assert gpu_fraction(peak + 1, gpu) is None
    else:
        assert gpu_fraction(peak, gpu) == expected


def test_gpu_fraction_takes_its_options() -> None:
    assert gpu_fraction(1000, 4000, margin=1, context_mb=0) == Share(4, 0.25)
    assert gpu_fraction(1000, 4000, margin=1, context_mb=0, most=3) == Share(3, 0.3333)


@given(peak=st.floats(1, 1e5), gpu=st.floats(1e3, 2e5), most=st.integers(1, 20))
def test_gpu_fraction_fits_and_is_the_smallest(peak: float, gpu: float, most: int) -> None:
    each = peak * 1.1 + 600
    share = gpu_fraction(peak, gpu, most=most)
    if share is None:
        assert each > gpu
        return
    assert share.trials * each <= gpu * (1 + 1e-6)
    assert share.trials == most or (share.trials + 1) * each > gpu * (1 - 1e-6)
    assert share.trials * share.fraction <= 1
    assert (share.trials + 1) * share.fraction > 1 - 1e-2
    assert round(share.fraction * 10_000) / 10_000 == share.fraction  # as Ray counts


def test_memory_of_a_worker_by_hand() -> None:
    assert cpu_memory_mb(1000) == pytest.approx(2300)


def test_throughput_knows_names_of_ray_and_drivers() -> None:
    for name, driver in {
        "V100": "Tesla V100-SXM2-32GB",
        "A100": "NVIDIA A100-SXM4-80GB",
        "H100": "NVIDIA H100 80GB HBM3",
        "H200": "NVIDIA H200",
        "T4": "Tesla T4",
        "A10G": "NVIDIA A10G",
        "L4": "NVIDIA L4",
        "RTX3090": "NVIDIA GeForce RTX 3090",
        "RTX4090": "NVIDIA GeForce RTX 4090",
    }.items():
        assert throughput(name) is throughput(driver) is throughput(name.lower())
        assert throughput(name) is THROUGHPUT[name]
    assert throughput("NVIDIA L40S") is None
    assert throughput("") is None


def seconds(gflops: float, hardware: Throughput, parameters: int = 10**6, **more: Any) -> float:
    """Estimate 10 epochs of 90 crops in steps of 8, or what is said instead."""
    need = Footprint(parameters, 1.0, 1.0, gflops, measured=False)
    given = {name: more.pop(name) for name in ("epochs", "precision") if name in more}
    config = TrialConfig.model_validate({"epochs": 10, "batch_size": 8, **given})
    return estimate_seconds(need, config, hardware, 90, **more)


def test_seconds_by_hand() -> None:
    # 3 x 10 GFLOP x 900 crops at 120 GFLOP/s, and 120 steps of 40 bytes x 1e6 at 8 GB/s
    assert seconds(10, CPU) == pytest.approx(225 + 0.6)
    assert seconds(10, CPU_BF16) == pytest.approx(112.5 + 0.6)
    assert seconds(10, CPU_BF16, precision="32") == pytest.approx(225.6)
    assert seconds(10, CPU, cores=2) == pytest.approx(225.6 / 2)
    # a small network waits for launches, shared or not; a large one for its share of the GPU
    v100 = THROUGHPUT["V100"]
    assert seconds(0.1, v100) == pytest.approx(120 * 0.04)
    assert seconds(0.1, v100, share=0.5) == pytest.approx(120 * 0.04)
    whole = seconds(100, v100)
    assert whole == pytest.approx(3 * 100 * 900 / 7850 + 120 * 0.04 / 900)
    assert seconds(100, v100, share=0.5) == pytest.approx(2 * whole)
    with pytest.raises(ValueError, match="share"):
        seconds(1, v100, share=0)


def test_seconds_agree_with_the_paper() -> None:
    """Table 1 of Vasinkova et al. 2024, U-Net and FPN with ResNet-152 on a V100."""
    for gflops, parameters, published in ((30.97, 67.2e6, 1301), (26.61, 60.7e6, 939)):
        estimated = seconds(gflops, THROUGHPUT["V100"], int(parameters), epochs=1000)
        assert published / 1.5 < estimated < published * 1.5


def test_large_first_is_stable() -> None:
    items = [
        Trial("a", 1, memory_mb=5),
        Trial("b", 2),
        Trial("c", 1, memory_mb=9),
        Trial("d", 2),
    ]
    assert [item.name for item in order_large_first(items)] == ["b", "d", "c", "a"]


def test_simulate_by_hand() -> None:
    items = [
        Trial("short", 1),
        Trial("short2", 1),
        Trial("long", 4),
        Trial("mid", 2),
    ]
    packing = simulate(items, 2)
    assert [(p.item.name, p.slot, p.start) for p in packing.placements] == [
        ("long", 0, 0),
        ("mid", 1, 0),
        ("short", 1, 2),
        ("short2", 1, 3),
    ]
    assert packing.makespan == 4
    assert packing.utilisation == 1
    assert simulate(items, 2, large_first=False).makespan == 5


def test_simulate_shares_by_hand() -> None:
    items = [Trial("whole", 3), *(Trial(f"half{i}", 2, 0.5) for i in range(4))]
    packing = simulate(items, 2)
    assert packing.makespan == 4
    assert [p.item.name for p in packing.timeline(0)] == ["whole"]
    assert [p.start for p in packing.timeline(1)] == [0, 0, 2, 2]
    assert (packing.busy(0), packing.busy(1)) == (3, 4)
    assert packing.utilisation == pytest.approx(7 / 8)
    thirds = simulate([Trial(f"t{i}", 1, 0.3333) for i in range(6)], 1)
    assert thirds.makespan == 2


def test_busy_leaves_out_gaps() -> None:
    # the whole trial waits for both small ones, which end at different times
    items = [Trial("a", 3, 0.5), Trial("b", 1, 0.5), Trial("whole", 2)]
    packing = simulate(items, 1, large_first=False)
    assert packing.makespan == 5
    assert packing.busy(0) == 5
    assert simulate([], 2) == Packing((), 2)
    assert simulate([], 2).makespan == simulate([], 2).utilisation == simulate([], 2).busy(1) == 0


def test_simulate_refuses_nonsense() -> None:
    for items, slots in (
        ([], 0),
        ([Trial("a", 1, 1.5)], 1),
        ([Trial("a", 1, 0)], 1),
        ([Trial("a", -1)], 1),
    ):
        with pytest.raises(ValueError):
            simulate(items, slots)


@given(items=ITEMS, slots=st.integers(1, 5), large_first=st.booleans())
def test_packing_properties(items: list[Trial], slots: int, large_first: bool) -> None:
    packing = simulate(items, slots, large_first=large_first)
    assert packing == simulate(items, slots, large_first=large_first)
    assert sorted(map(id, items)) == sorted(id(p.item) for p in packing.placements)
    starts = [p.start for p in packing.placements]
    assert starts == sorted(starts)
    for now in starts:  # load grows at starts only
        for slot in range(slots):
            load = sum(p.item.share for p in packing.timeline(slot) if p.start <= now < p.end)
            assert load <= 1 + 1e-9
    work = sum(item.seconds * item.share for item in items)
    longest = max((item.seconds for item in items), default=0.0)
    slack = 1e-6 * (1 + work)
    assert packing.makespan >= max(longest, work / slots) - slack
    assert packing.utilisation <= 1 + 1e-6
    assert all(packing.busy(slot) <= packing.makespan + slack for slot in range(slots))


@given(items=ITEMS, slots=st.integers(1, 5), large_first=st.booleans())
def test_list_scheduling_bounds(items: list[Trial], slots: int, large_first: bool) -> None:
    longest = max((item.seconds for item in items), default=0.0)
    # While a share of at most a half waits, every slot is more than half full.
    small = [item for item in items if item.share <= 0.5]
    work = sum(item.seconds * item.share for item in small)
    made = simulate(small, slots, large_first=large_first).makespan
    assert made <= 2 * work / slots + longest + 1e-6 * (1 + work)
    # Graham's bound for whole slots, or 4/3 of the optimum (at least the mean) in LPT order.
    whole = [Trial("w", item.seconds) for item in items]
    total = sum(item.seconds for item in whole)
    made = simulate(whole, slots, large_first=large_first).makespan
    assert made <= total / slots + (1 - 1 / slots) * longest + 1e-6 * (1 + total)


def test_a_thousand_trials_are_quick_and_render() -> None:
    items = [Trial(f"t{i}", 100 + i % 37, (0.5, 0.3333, 0.25)[i % 3]) for i in range(1000)]
    packing = simulate(items, 8)
    assert packing.utilisation > 0.9
    assert len(render(packing)) == 9


def test_render_and_times() -> None:
    packing = simulate([Trial("a", 12_000), Trial("b", 6_000), Trial("c", 300)], 2)
    assert render(packing) == [
        "GPU 0  1 trial   busy 3 h 20 min",
        "GPU 1  2 trials  busy 1 h 45 min",
        "about 3 h 20 min in all, 76% used",
    ]
    assert render(simulate([], 1), slot_name="slot")[0] == "slot 0  0 trials  busy 0 s"
    shown = {0: "0 s", 59: "59 s", 59.7: "1 min", 3599: "1 h 0 min", 360_000: "100 h 0 min"}
    assert {seconds: format_time(seconds) for seconds in shown} == shown


def test_packing_imports_neither_torch_nor_ray() -> None:
    code = "import sys, sweep.packing; print({'torch', 'ray', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
