"""The meter against closed forms and against work whose cost is known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generators, Loss, Prompt
from approaches.settings import Settings
from approaches.shared.kernels import REFERENCE, Kernels, choose
from approaches.shared.randomness import generator
from approaches.shared.transformer import Transformer, TransformerConfig
from bench import meter as module
from bench.meter import (
    Meter,
    PeakMemory,
    flops,
    flops_per_evaluation,
    flops_per_step,
    machine,
    mfu,
    parameters,
    peak_flops,
)
from bench.quantiles import median_interval
from metrics.statistics import READ_ONCE, Estimate
from tests.approaches.small import small_batch, small_generators, small_shared

SHAPE = TransformerConfig(
    vocabulary=500, width=48, layers=3, heads=6, kv_heads=2, head_width=8, hidden=80, context=64
)  # fmt: skip


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(module, "now", turned)
    return turned


# ------------------------------------------------------------------------------------------------------------ time


def test_laps_leave_out_the_warm_up_and_what_lies_between(clock: Clock) -> None:
    meter = Meter(warmup=2)
    meter.start()
    for taken in (100.0, 50.0, 1.0, 2.0, 4.0):
        clock.time += taken
        assert meter.lap(2) == taken
        clock.time += 1000.0  # an evaluation
        meter.start()
    assert meter.laps == [(1.0, 2), (2.0, 2), (4.0, 2)] and meter.seconds == 157.0
    rate = meter.rate(per_step=64)
    assert rate.value == 64.0 and rate.n == 3 and rate.unit == "1/s"
    assert rate.low is None and "too few laps for an interval of their median: 3" in rate.reason
    assert rate.details["seconds_per_step"] == [0.5, 1.0, 2.0]
    assert rate.details["p5"] == pytest.approx(32 + 0.1 * 32) and rate.details["p95"] == pytest.approx(64 + 0.9 * 64)


def test_a_meter_goes_on_after_a_stop_with_a_warm_up_of_its_own(clock: Clock) -> None:
    first, second = Meter(warmup=1), Meter(warmup=1)
    for each in (first, second):
        if each is second:
            second.restore(first.state())
        each.start()
        for taken in (9.0, 1.0, 2.0):
            clock.time += taken
            each.lap()
    assert second.laps == [(1.0, 1), (2.0, 1), (1.0, 1), (2.0, 1)] and second.seconds == 24.0


def test_laps_of_another_machine_are_left_out_and_it_is_named(clock: Clock) -> None:
    first, second = Meter(warmup=0, place="A, 1 thread"), Meter(warmup=0, place="B, 1 thread")
    for each in (first, second):
        if each is second:
            second.restore(first.state())
        each.start()
        clock.time += 4.0
        each.lap()
    assert len(second.laps) == 1 and second.seconds == 8.0 and second.places == ["A, 1 thread", "B, 1 thread"]
    third = Meter(warmup=0, place="A, 1 thread")
    third.restore(second.state())
    assert third.laps == [] and third.places == ["A, 1 thread", "B, 1 thread"]
    third.restore({"laps": [], "seconds": 1.0})  # of before there were places
    assert third.places == ["A, 1 thread"]


def test_a_machine_is_its_accelerator_processor_threads_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpu_name", lambda: "AMD EPYC 9B14")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine() == "AMD EPYC 9B14, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert machine("cuda") == "NVIDIA H200, AMD EPYC 9B14, 16 threads"
    assert machine("cpu", 2) == "2 x AMD EPYC 9B14, 16 threads"
    found = module.taken(Estimate.counted(1.0, unit="J", source="NVML"), "A")
    assert found.details == {"source": "NVML", "machine": "A"} and found.value == 1.0


def test_no_lap_after_the_warm_up_is_missing_with_its_reason() -> None:
    rate = Meter().rate()
    assert rate.value is None and "no lap after 3 of warm-up" in rate.reason
    assert mfu(rate, 1e9, 1e12).value is None


def test_the_clock_is_the_walls() -> None:
    meter, begun = Meter(warmup=0), time.monotonic()
    meter.start()
    for _ in range(8):
        time.sleep(0.01)
        meter.lap()
    whole, rate = time.monotonic() - begun, meter.rate()
    assert 0.08 <= sum(seconds for seconds, _ in meter.laps) <= whole
    assert rate.value is not None and rate.value <= 100 and rate.low is not None and rate.high is not None
    assert rate.low <= rate.value <= rate.high


def test_the_medians_interval_is_the_textbooks_and_covers() -> None:
    """Ranks of the sign test's 95% interval (Conover, table A3): 2 and 9 of 10, 6 and 15 of 20, 18 and 33 of 50."""
    assert median_interval(range(5)) is None and median_interval(range(6)) == (0, 5)
    for n, low, high in ((10, 2, 9), (20, 6, 15), (50, 18, 33)):
        assert median_interval(range(1, n + 1)) == (low, high)
    draws = np.sort(np.random.default_rng(0).exponential(size=(4000, 25)), axis=1)
    found = [median_interval(row.tolist()) for row in draws]
    covered = statistics.mean(pair is not None and int(pair[0] <= np.log(2) <= pair[1]) for pair in found)
    assert 0.94 <= covered < 0.99


# ---------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("kernel", [True, False])
def test_peak_memory_sees_what_was_held_for_a_moment(
    kernel: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if not kernel:  # a system without the mark
        monkeypatch.setattr(module, "HIGH_WATER", tmp_path)
    size = 96 * 2**20
    with PeakMemory(every=0.002) as memory:
        held, end = np.ones(size, dtype=np.uint8), time.monotonic() + 60
        while memory._thread is not None and memory._peak - memory._start < 0.9 * size and time.monotonic() < end:
            time.sleep(0.002)  # whoever looks gets his turn
        del held
    estimate = memory.estimate()
    assert estimate.value is not None and 0.9 * size <= estimate.value <= 1.3 * size
    assert (
        estimate.unit == "bytes"
        and estimate.reason == READ_ONCE
        and estimate.details["at_start"] > 0
        and "covers" not in estimate.details
    )
    assert memory.estimate(whole=False).details["covers"] == "the last of several processes"
    with PeakMemory() as little:  # what came before does not count
        pass
    assert little.estimate().value is not None and (little.estimate().value or 0) < 0.3 * size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_is_what_was_allocated() -> None:
    with PeakMemory("cuda") as memory:
        held = torch.ones(64 * 2**20, dtype=torch.uint8, device="cuda")
        del held
    estimate = memory.estimate()
    assert (estimate.value or 0) - estimate.details["at_start"] >= 64 * 2**20
    assert estimate.details["reserved"] >= 64 * 2**20


# ----------------------------------------------------------------------------------------------------------- FLOPs


def closed_form(config: TransformerConfig, batch: int, tokens: int) -> int:
    """Of one training step: two for each multiply-add, backward twice forward (no input gradient is saved: the
    embedding needs the first layer's)."""
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    layer = config.width * (2 * queries + 2 * keys + 3 * config.hidden) + 2 * tokens * queries
    return 3 * 2 * batch * tokens * (config.layers * layer + config.width * config.vocabulary)


@pytest.mark.parametrize("kernels", [REFERENCE, choose("cpu")], ids=["reference", "chosen"])
def test_flops_of_a_transformers_step_are_the_closed_form(kernels: Kernels) -> None:
    model = Transformer(SHAPE, kernels)
    model.initialise(generator(0, "weights"))
    batch, tokens = 4, 24
    ids = torch.randint(SHAPE.vocabulary, (batch, tokens + 1), generator=generator(0, "ids"))
    counted = flops(lambda: model.loss(ids)[0].backward())
    assert counted == pytest.approx(closed_form(SHAPE, batch, tokens), rel=0.02)


class Net(Approach):
    """Draws from a prompt's embedding and has parts that a picture does not pass through."""

    def __init__(self, shared: Any, settings: Settings) -> None:
        super().__init__(shared, settings)
        self.language_model.requires_grad_(False)
        self.word = nn.Linear(self.language_model.transformer.config.width, 256)
        self.body = nn.Linear(256, 256)
        self.gain = nn.Parameter(torch.ones(256))
        self.unused = nn.Linear(256, 7)

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Both linear layers, each on its own rows."""
        drawn = self.body(batch.noise.flatten(1)) * self.gain
        read = self.unused(batch.describe.latents.flatten(1))
        return {"diffusion": Loss(drawn.square().sum(), len(drawn)), "caption": Loss(read.sum(), len(read), 0.2)}

    def blocks(self) -> list[nn.Module]:
        """The body."""
        return [self.body]

    def condition(self, prompts: Sequence[Prompt]) -> Tensor:
        """The embedding's first row stands for the prompt."""
        return self.word(self.language_model.transformer.embed.weight[:1]).expand(len(prompts), -1)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        """By functions, not by calling the layer: hooks on modules would see nothing."""
        hidden = nn.functional.linear(x_t.flatten(1), self.body.weight) + condition
        return (hidden * self.gain + self.body.bias).view_as(x_t)


def test_flops_of_an_approachs_step_are_those_of_its_layers() -> None:
    shared = small_shared()
    net, batch = Net(shared, Settings()), small_batch(shared)
    rows, described = len(batch.draw), len(batch.describe)
    counted = flops_per_step(net, batch, small_generators())
    # neither layer's input has a gradient: forward and the weight's gradient only
    assert counted == 2 * 2 * 256 * (256 * rows + 7 * described)
    assert all(parameter.grad is None for parameter in net.parameters())
    width = shared.language_model.transformer.config.width
    assert flops_per_evaluation(net, batch.noise) == {"condition": 2 * width * 256, "denoise": 2 * 256 * 256}


def test_torchs_own_attention_is_counted_as_its_products() -> None:
    """Of a stranger's network: torch's counter knows no kernel that attends on a CPU."""
    q = torch.randn(2, 4, 32, 16)
    found = flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert found == 2 * (2 * 2 * 4 * 32 * 32 * 16)


def test_parameters_are_counted_by_what_is_read() -> None:
    shared = small_shared()
    net = Net(shared, Settings()).train()
    counted = parameters(net, small_batch(shared).noise)
    transformer = shared.language_model.transformer
    own = sum(p.numel() for p in (*net.word.parameters(), *net.body.parameters(), net.gain))
    assert counted["trainable"] == own + 256 * 7 + 7
    assert counted["total"] == counted["trainable"] + sum(p.numel() for p in transformer.parameters())
    assert counted["active"] == own + transformer.embed.weight.numel()
    assert counted["borrowed"] == net.borrowed() and net.training
    net.capabilities = frozenset({"generate"})  # type: ignore[misc]
    assert parameters(net, small_batch(shared).noise)["active"] is None


@pytest.mark.alone
def test_the_peak_rate_is_one_that_a_product_reaches() -> None:
    peak = peak_flops(seconds=0.2)
    a = torch.randn(512, 512)
    start = time.perf_counter()
    for _ in range(4):
        a @ a
    assert 4 * 2 * 512**3 / (time.perf_counter() - start) < 3 * peak
    rate = Estimate(value=2.0, low=1.0, high=3.0, n=9, unit="1/s")
    outrun = mfu(rate, 1e9, 1e8)
    assert outrun.value is None and "faster than the 1e+08 FLOP/s" in outrun.reason
    share = mfu(rate, 1e9, 1e10)
    assert [share.value, share.low, share.high] == pytest.approx([0.2, 0.1, 0.3]) and share.unit == "share of peak"
