"""What must stay true of a fixed small training of every approach: its first losses bit for bit, its metrics within
intervals, and, of an approach whose language model is frozen, the base model's words exactly."""

from __future__ import annotations

import math
import platform
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from approaches.base import Approach
from approaches.registry import APPROACHES
from bench.environment import cpu_name
from bench.errors import in_a_line
from bench.evaluate import measure
from bench.gates.findings import wanted
from bench.gates.thresholds import Thresholds
from bench.gates.world import World, quiet
from bench.held_out import hold_out

Values = dict[str, Any]


def machine() -> str:
    """The kind of machine that rounds like this one: processor, what torch uses of it, torch's build, threads."""
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    processor = f"{cpu_name()}{_model()}, {platform.machine()} {capability}"
    return f"{processor}, torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}"


def _model() -> str:
    """The numbers by which Linux tells processors of one name apart; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    told = [line.partition(":") for line in lines]
    numbers = [next((v.strip() for k, _, v in told if k.strip() == name), "?") for name in ("cpu family", "model")]
    return f" (family {numbers[0]}, model {numbers[1]})"


def quality(world: World, thresholds: Thresholds, groups: Collection[str]) -> dict[str, Values]:
    """By name: `golden/X`, term -> its first losses; `smoke/X`, metric -> value; `retention/X`, of approaches that
    promise it. groups: see `bench.gates.findings.wanted`."""
    found: dict[str, Values] = {}
    for name in APPROACHES:
        asked = [each for group in ("golden", "retention", "smoke") if wanted(each := f"{group}/{name}", groups)]
        try:
            if asked:
                _of_one(world, name, thresholds, asked, found)
        except Exception as error:  # whatever an approach may raise: the others are judged none the less
            traceback.print_exc()
            said = {"error": in_a_line(error)}
            found |= dict.fromkeys((each for each in asked if each not in found), said)
    return found


def _of_one(world: World, name: str, thresholds: Thresholds, asked: Collection[str], found: dict[str, Values]) -> None:
    """What is asked of an approach, into `found`."""
    approach = world.fresh(name)
    with deterministic():
        trainee = world.trainee(approach)
        rows = [trainee.step(step, 1.0).tolist() for step in range(thresholds.smoke_steps)]
        first = rows[: thresholds.golden_steps]
        approach.eval()
        if (golden := f"golden/{name}") in asked:
            found[golden] = {term: [row[i] for row in first] for i, term in enumerate(trainee.names)}
        if (kept := f"retention/{name}") in asked and "complete" in approach.capabilities and frozen(approach):
            found[kept] = retention(world, approach)
        if (small := f"smoke/{name}") in asked:
            found[small] = smoke(world, approach, thresholds)


def frozen(approach: Approach) -> bool:
    """Whether the approach promises the base model's words: all of its language model's weights are frozen."""
    return not any(parameter.requires_grad for parameter in approach.language_model.parameters())


@torch.no_grad()
def retention(world: World, approach: Approach) -> Values:
    """Over held-out text: perplexity of the base over the adapted model's, and the largest difference of any logit."""
    window = 64
    model = world.common.language_model
    texts = (document.text for document in world.corpus.documents("test"))
    rows = [[model.start_id, *model.encode(text)][: window + 1] for text in texts]
    ids = torch.tensor([row for row in rows if len(row) > window][:8])
    base = world.common.language_model.transformer
    original, adapted = base.logits(base(ids[:, :-1])), approach.text_logits(ids[:, :-1])
    kept = math.exp(_nats(original, ids) - _nats(adapted, ids))
    return {"perplexity_retention": kept, "largest_difference": float((original - adapted).abs().max())}


def _nats(logits: Tensor, ids: Tensor) -> float:
    return float(-logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).double().mean())


def smoke(world: World, approach: Approach, thresholds: Thresholds) -> Values:
    """The metrics that the thresholds name, as every run is measured; None where one is missing."""
    held = hold_out(world.config, world.common, world.corpus, quiet())
    told = measure(approach, held, world.config, world.common.language_model, quiet()).metrics
    return {name: told[name].value if name in told else None for name in thresholds.smoke}


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside, torch takes only algorithms that give the same every time, or raises."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
