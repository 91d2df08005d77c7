"""The parts that gates measure with: the clock, the counters, the protocol of workers, trees, pairs, and what
pytest-benchmark leaves behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.console import Console
from bench.errors import UserError
from bench.gates import benchmarks, clock, speed, thresholds, trees, worker
from bench.gates.baseline import Baseline
from bench.gates.counts import Live, Reads
from bench.gates.findings import Finding
from bench.gates.pairs import BaseError, Compared, compare
from bench.gates.workers import WorkerError

LIMITS = thresholds.load()


# ----------------------------------------------------------------------------------------------------- clock


@pytest.mark.alone
def test_the_clock_counts_work_and_sleep_and_no_more_than_the_wall_has() -> None:
    wall, own = time.perf_counter(), clock.own()
    time.sleep(0.05)
    sum(range(300_000))
    own, wall = clock.own() - own, time.perf_counter() - wall
    assert 0.05 <= own <= wall + 1e-3


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let a thread choose its processor"
)
def test_a_timing_stays_on_one_processor_and_gives_the_others_back() -> None:
    before, chosen = os.sched_getaffinity(0), clock.processor()
    assert chosen in before
    with pytest.raises(ZeroDivisionError), clock.on(chosen):
        assert os.sched_getaffinity(0) == {chosen}
        _ = 1 / 0
    with clock.on(None):
        assert os.sched_getaffinity(0) == before


# ------------------------------------------------------------------------------------------------- counters


def test_live_bytes_are_counted_and_views_are_free() -> None:
    outside = torch.zeros(1000)
    with Live() as live:
        a = outside + 1  # 4000 bytes
        b = a.view(10, 100).t()
        c = b * 2  # 4000 more
        assert live.now == 8000
        del a, b
        assert live.now == 4000
        d = c.double()  # 8000 more
        assert (live.now, live.peak) == (12_000, 12_000)
        c.add_(1)
        del c, d
    assert (live.now, live.peak) == (0, 12_000)


def test_a_backward_pass_frees_what_the_forward_pass_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Tanh(), nn.Linear(64, 64, bias=False))
    x = torch.randn(256, 64)

    def step() -> int:
        model.zero_grad(set_to_none=True)
        with Live() as live:
            model(x).sum().backward()
        return live.peak

    step()
    peak = step()
    assert peak == step()
    rows, weights = 256 * 64 * 4, 64 * 64 * 4
    assert 3 * rows < peak < 6 * rows + 2 * weights


def test_reads_are_of_these_weights_however_they_are_reached() -> None:
    own, other, words = nn.Linear(8, 8), nn.Linear(8, 8), nn.Embedding(5, 8)
    x = torch.ones(2, 8)
    with torch.no_grad(), Reads([*own.parameters(), *words.parameters()]) as reads:
        own(other(x))
        assert reads.count == 1
        x @ own.weight[:4].t()
        words(torch.tensor([1, 2]))
        assert reads.count == 3
        own.weight.sum()
        other(x)
    assert reads.count == 3


# ------------------------------------------------------------------------------------------------- protocol


class Fake:
    """A server without torch."""

    def double(self, value: float) -> dict[str, Any]:
        return {"value": 2 * value}

    def fail(self) -> dict[str, Any]:
        raise ValueError("no\nmore")


def asked(server: Any, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    answers = io.StringIO()
    worker.serve(server, io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_every_request_has_one_answer_and_an_exception_is_one() -> None:
    found = asked(
        Fake, {"do": "double", "value": 4}, {"do": "fail"}, {"do": "double", "value": float("inf")}, {"do": "x"}
    )
    assert found[0] == {"value": 8}
    assert found[1] == {"error": "ValueError: no"}
    assert found[2] == {"value": "inf"}
    assert "AttributeError" in found[3]["error"]


def test_no_tree_borrows_this_project_s_modules_and_other_packages_are_found() -> None:
    """As setuptools names the finders of what is installed with pip install -e."""
    names = ("__editable___draw_bench_0_1_0_finder", "__editable___plain_way_0_1_finder", "_frozen_importlib")
    finders = [type("Finder", (), {"__module__": name}) for name in names]
    assert worker.of_this_tree([*finders, object()])[:-1] == finders[1:]


def test_a_server_that_can_not_start_says_so_every_time() -> None:
    def broken() -> Any:
        raise ImportError("no such module")

    assert asked(broken, {"do": "hello"}, {"do": "names"}) == 2 * [{"error": "ImportError: no such module"}]


# ----------------------------------------------------------------------------------------------------- trees


def git(folder: Path, *words: str) -> None:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *names, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Two commits of a small tree with gates in it."""
    root = tmp_path / "root"
    gates = root / "bench" / "gates"
    gates.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    for number in (1, 2):
        (root / "code.py").write_text(f"x = {number}\n", encoding="utf-8")
        (gates / "cases.py").write_text(f"case = {number}\n", encoding="utf-8")
        (gates / "baseline.json").write_text(f"{number}\n", encoding="utf-8")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", str(number))
    return root


def test_the_base_is_the_first_parent_or_what_is_named(checkout: Path) -> None:
    parent, why = trees.base_of(checkout, "")
    assert why == "" and trees.base_of(checkout, "HEAD~1") == (parent, "") != trees.base_of(checkout, "main")
    with pytest.raises(UserError, match="no commit of this checkout"):
        trees.base_of(checkout, "mian")


def test_without_a_parent_there_is_no_base_and_a_reason(checkout: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{checkout}", str(shallow)], check=True)
    assert trees.base_of(shallow, "") == ("", "the commit has no parent here: it is the first, or the clone is shallow")
    bare = tmp_path / "bare"
    bare.mkdir()
    assert trees.base_of(bare, "") == ("", "this is no git checkout")


def test_a_base_has_its_own_code_and_this_trees_gates(checkout: Path) -> None:
    (checkout / "bench" / "gates" / "cases.py").write_text("case = 3\n", encoding="utf-8")  # not committed yet
    commit, _ = trees.base_of(checkout, "")
    with trees.checked_out(checkout, commit) as tree:
        assert (tree / "code.py").read_text(encoding="utf-8") == "x = 1\n"
        assert (tree / "bench" / "gates" / "cases.py").read_text(encoding="utf-8") == "case = 3\n"
        assert trees.before(tree, "baseline.json").read_text(encoding="utf-8") == "1\n"
        assert not trees.before(tree, "thresholds.toml").exists()
    assert not tree.exists()
    listed = subprocess.run(
        ["git", "-C", str(checkout), "worktree", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert len(listed.splitlines()) == 1


# ----------------------------------------------------------------------------------------------------- pairs


class Pretended:
    """A worker whose cases take as long as they are said to. Counts how often it was asked."""

    def __init__(self, seconds: dict[str, float | str]) -> None:
        self.cases, self.asked, self.order = seconds, dict[str, int](), list[str]()
        self._answers: list[Any] = []

    def ask(self, do: str, **words: Any) -> None:
        self.asked[do] = self.asked.get(do, 0) + 1
        found = self.cases.get(words.get("case", ""))
        self._answers.append({"names": list(self.cases)} if do == "names" else found)

    def answer(self) -> Any:
        found = self._answers.pop(0)
        if isinstance(found, str):
            raise WorkerError(found)
        return found if isinstance(found, dict) else {"seconds": found}

    def call(self, do: str, **words: Any) -> Any:
        self.ask(do, **words)
        return self.answer()


def test_pairs_are_ratios_of_head_to_base() -> None:
    base, head = Pretended({"s/a": 0.02}), Pretended({"s/a": 0.03})
    found = compare(base, head, "s/a", pairs=8, seconds=0.1, about=1.1)  # type: ignore[arg-type]
    assert found.ratios == pytest.approx([1.5] * 6) and found.seconds == 0.03
    assert base.asked == head.asked == {"prepare": 1, "time": 6}  # six tell that it is slower than 1.1


class Noisy(Pretended):
    """Whose times scatter as a busy machine's do."""

    def __init__(self, seconds: float, spread: float, seed: int) -> None:
        super().__init__({"s/a": seconds})
        self.spread, self.generator = spread, np.random.default_rng(seed)

    def answer(self) -> Any:
        found = super().answer()
        return {"seconds": found["seconds"] * float(np.exp(self.spread * self.generator.normal()))}


@pytest.mark.parametrize(("slower", "spread"), [(1.0, 0.01), (1.0, 0.05), (1.2, 0.01), (1.2, 0.05)])
def test_pairs_end_early_where_it_is_clear_and_are_as_right_for_it(slower: float, spread: float) -> None:
    found = []
    for seed in range(200):
        base, head = Noisy(0.1, spread, 2 * seed), Noisy(0.1 * slower, spread, 2 * seed + 1)
        found.append(compare(base, head, "s/a", pairs=15, seconds=0.1, about=1.1))  # type: ignore[arg-type]
    lengths = [len(each.ratios) for each in found]
    assert min(lengths) == 6 and np.mean(lengths) < (6.1 if spread == 0.01 else 12)
    assert np.mean([each.slower(1.1) == (slower > 1) for each in found]) >= (1.0 if spread == 0.01 else 0.98)


def test_whose_fault_it_is_that_a_case_can_not_run() -> None:
    well, ill = {"s/a": 0.02}, {"s/a": "no such thing"}
    with pytest.raises(BaseError):
        compare(Pretended(ill), Pretended(well), "s/a", pairs=8, seconds=0.1, about=1.1)  # type: ignore[arg-type]
    with pytest.raises(WorkerError):
        compare(Pretended(well), Pretended(ill), "s/a", pairs=8, seconds=0.1, about=1.1)  # type: ignore[arg-type]
    with pytest.raises(WorkerError):
        compare(Pretended(ill), Pretended(ill), "s/a", pairs=8, seconds=0.1, about=1.1)  # type: ignore[arg-type]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[dict[str, Any], dict[str, Any]]]]:
    """What the base's and the head's cases take, of one start of workers after another."""
    from contextlib import contextmanager

    turns: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @contextmanager
    def started(head: Path, base: Path | None, limits: Any) -> Iterator[list[Pretended]]:
        first, second = turns.pop(0)
        yield [Pretended(first), Pretended(second)] if base else [Pretended(second)]

    monkeypatch.setattr(speed, "running", started)
    yield turns
    assert not turns


def judged(expected: Sequence[str], base: Path | None = Path("base")) -> dict[str, Finding]:
    found = speed.judged(Path("head"), base, "it is the first", expected, (), LIMITS, Console(as_json=True))
    return {finding.name: finding for finding in found}


def test_without_a_base_nothing_is_judged_but_names(running: list[Any]) -> None:
    running.append(({}, {"s/a": 0.1}))
    found = judged(["s/a", "s/b"], None)
    assert {name: finding.status for name, finding in found.items()} == {"s/a": "not judged", "s/b": "missing"}
    assert "it is the first" in found["s/a"].said


def test_only_what_is_suspected_is_measured_again_by_new_workers(running: list[Any]) -> None:
    well = {"s/a": 0.1, "s/b": 0.1, "s/c": 0.1}
    running += [(well, {**well, "s/b": 0.13, "s/c": 0.13}), (well, {**well, "s/c": 0.13})]
    found = judged(["s/a", "s/b", "s/c"])
    assert {name: finding.status for name, finding in found.items()} == {
        "s/a": "pass",
        "s/b": "pass",
        "s/c": "regression",
    }
    assert "fresh" not in found["s/a"].said and "fresh" in found["s/b"].said


def rounds(monkeypatch: pytest.MonkeyPatch, *medians: Compared | WorkerError) -> tuple[Any, int]:
    """What `fresh` makes of such measurements, and how many it took."""
    left = list(medians)
    monkeypatch.setattr(speed, "running", lambda *_: nullcontext([]))
    monkeypatch.setattr(speed, "measure", lambda *_: {"s/a": left.pop(0)})
    found = speed.fresh(Path("head"), Path("base"), ["s/a"], LIMITS, Console(as_json=True))
    return found["s/a"], len(medians) - len(left)


def test_fresh_pairs_go_on_while_the_limit_lies_in_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sure, quick = (Compared(ratios=(ratio,) * 15, seconds=0.1) for ratio in (1.2, 1.0))
    unsure = Compared(ratios=(1.0,) * 8 + (1.2,) * 7, seconds=0.1)
    assert rounds(monkeypatch, sure, quick, quick) == (sure, 1)
    assert rounds(monkeypatch, quick, sure, sure) == (quick, 1)
    found, taken = rounds(monkeypatch, unsure, sure, quick)
    assert taken == 2 and found.slower(LIMITS.limit) and len(found.ratios) == 30
    found, taken = rounds(monkeypatch, unsure, unsure, unsure, sure)
    assert taken == LIMITS.rounds == 3 and not found.slower(LIMITS.limit)
    found, taken = rounds(monkeypatch, unsure, WorkerError("gone"), sure)
    assert taken == 2 and isinstance(found, WorkerError)


def test_a_case_that_breaks_fails_and_one_that_only_the_base_lacks_does_not(running: list[Any]) -> None:
    running.append(({"s/a": 0.1, "s/b": "no module"}, {"s/a": "it raised", "s/b": 0.1}))
    found = judged(["s/a", "s/b"])
    assert {name: finding.status for name, finding in found.items()} == {"s/a": "missing", "s/b": "not judged"}


# ------------------------------------------------------------------------------------------- pytest-benchmark

TIMED = """
import pytest

@pytest.mark.parametrize("name", ["step/a", "step/b"])
def test_speed(name, benchmark):
    {first}
    benchmark.extra_info["threads"] = 1
    benchmark.pedantic(sum, args=([1, 2],), rounds=2)
"""


@pytest.mark.parametrize(
    ("words", "first", "missing"),
    [
        ((), "pass", set()),
        (("--benchmark-disable",), "pass", {"step/a", "step/b"}),
        (("--benchmark-skip",), "pass", {"step/a", "step/b"}),
        (("-k", "step/a"), "pass", {"step/b"}),
        ((), "if name == 'step/b': pytest.skip('today')", {"step/b"}),
    ],
    ids=["whole", "disabled", "skipped by option", "left out", "skipped"],
)
def test_what_pytest_passes_over_the_gate_does_not(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    first: str,
    missing: set[str],
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # in which pytest-benchmark measures nothing
    pytester.makepyfile(TIMED.format(first=first))
    path = pytester.path / "benchmarks.json"
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider", *words, f"--benchmark-json={path}")
    assert done.ret == 0  # which is the point
    if not path.exists():
        path.write_text("", encoding="utf-8")
    baseline = Baseline(names={"speed": ["step/a", "step/b"]})
    found = {finding.name: finding.status for finding in benchmarks.judge(path, baseline, LIMITS)}
    assert {name for name, status in found.items() if status == "missing"} == missing
    assert {name for name, status in found.items() if status == "pass"} == {"step/a", "step/b"} - missing
