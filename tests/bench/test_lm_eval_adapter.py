"""A run handed to lm-evaluation-harness: its numbers are the run's own logits', and a real task of each kind, from a
local file, gets through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.environment import ROOT
from bench.errors import UserError
from tests.bench.conftest import MicroRun

pytest.importorskip("lm_eval", reason="needs the package lm-eval: install this project's extra 'lm-eval'")

TEXTS = ["a red circle left of a blue square", "document 3 says 9 things", "x"]


@pytest.fixture(scope="module")
def model(micro_run: MicroRun) -> Any:
    from bench.lm_eval_adapter import DrawBenchLM

    return DrawBenchLM(run=str(micro_run.folder), batch_size=2)


@pytest.fixture(scope="module")
def base(micro_run: MicroRun) -> Any:
    from bench.lm_eval_adapter import DrawBenchLM

    return DrawBenchLM(run=str(micro_run.folder), base=True)


def asked(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def by_hand(model: Any, context: str, continuation: str) -> float:
    """Token after token, one row, no padding."""
    words = model.language_model
    ids = [words.start_id, *words.encode(context + continuation)]
    first = 1 + len(words.encode(context))
    with torch.no_grad():
        logs = model.trained.approach.text_logits(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    return sum(float(logs[place - 1, ids[place]]) for place in range(first, len(ids)))


def test_log_likelihoods_are_the_models_own(model: Any) -> None:
    pairs = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in TEXTS[:2]] + [("", TEXTS[2])]
    found = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    for pair, (value, _) in zip(pairs, found, strict=True):
        assert value == pytest.approx(by_hand(model, *pair), abs=1e-3)
    alone = [model.loglikelihood(asked(pair), disable_tqdm=True)[0][0] for pair in pairs]
    assert [value for value, _ in found] == pytest.approx(alone, abs=1e-3)


def test_greedy_is_what_the_model_would_write(model: Any) -> None:
    context = TEXTS[0]
    written = model.generate_until(asked((context, {"until": [], "max_gen_toks": 4})))[0]
    words = model.language_model
    whole = words.encode(context + written)
    if whole[: len(words.encode(context))] == words.encode(context):  # a text's tokens need not be its parts'
        assert model.loglikelihood(asked((context, written)), disable_tqdm=True)[0][1]
    wrong = model.loglikelihood(asked((context, " zebra zebra")), disable_tqdm=True)[0]
    assert not wrong[1] and wrong[0] < 0


def of_ids(model: Any, ids: list[int], last: int) -> float:
    """The log-probability of the last tokens after those before them, one row, no padding."""
    with torch.no_grad():
        logs = model.trained.approach.text_logits(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    return sum(float(logs[place - 1, ids[place]]) for place in range(len(ids) - last, len(ids)))


def test_a_rolling_text_is_the_sum_of_its_windows(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.loglikelihood_rolling(asked((TEXTS[0],)))[0] == pytest.approx(by_hand(model, "", TEXTS[0]), abs=1e-3)
    monkeypatch.setattr(model, "max_length", 4)
    text = " ".join(TEXTS)
    ids = [model.prefix_token_id, *model.tok_encode(text)]
    ends = [*range(5, len(ids), 4), len(ids)]  # four tokens at a time, each after the one before; the last looks back
    expected, begun = 0.0, 1
    for end in ends:
        expected += of_ids(model, ids[max(0, end - 5) : end], end - begun)
        begun = end
    assert len(ends) > 2 * model.batch_size
    assert model.loglikelihood_rolling(asked((text,)))[0] == pytest.approx(expected, abs=1e-3)


def test_what_is_longer_than_a_window_is_cut_on_the_left(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "max_length", 6)
    context, continuation = model.tok_encode(TEXTS[0]), model.tok_encode(" and")
    ((found, _),) = model._loglikelihood_tokens([(None, context, continuation)], disable_tqdm=True)
    assert found == pytest.approx(of_ids(model, [*context, *continuation][-7:], len(continuation)), abs=1e-3)


def test_an_answer_without_a_bound_leaves_room_for_its_question(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    start = model._start

    def noting(ids: list[int]) -> Any:
        read.append(ids)
        return start(ids)

    monkeypatch.setattr(model, "_start", noting)
    monkeypatch.setattr(model, "max_length", 21)
    short, long = TEXTS[0], " ".join(TEXTS * 4)
    for text in (short, long):
        model.generate_until(asked((text, {"until": ["."]})))
    ids = model.tok_encode(long)
    assert read == [model.tok_encode(short)[-20:], ids[-10:]] and len(ids) > 20 > len(read[0])
    model.generate_until(asked((long, {"until": ["."], "max_new_tokens": 3})))  # an alias of max_gen_toks
    assert read[-1] == ids[-17:]


def test_a_frozen_run_scores_as_its_base_does(model: Any, base: Any) -> None:
    pairs = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in TEXTS[:2]]
    ours = model.loglikelihood(asked(*pairs), disable_tqdm=True)
    theirs = base.loglikelihood(asked(*pairs), disable_tqdm=True)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    options = {"until": ["."], "max_gen_toks": 6}
    assert model.generate_until(asked((TEXTS[1], options))) == base.generate_until(asked((TEXTS[1], options)))


def test_a_start_token_stands_once_before_a_context(model: Any, base: Any) -> None:
    """As in a context that begins with one: a run reads it as its base does."""
    own = model.language_model.encode(TEXTS[1])
    for system in (model, base):
        bare, opened = (system._start(ids)[0] for ids in (own, [system.prefix_token_id, *own]))
        assert torch.equal(bare, opened)


def test_writing_stops_where_a_task_says(model: Any) -> None:
    free = model.generate_until(asked((TEXTS[1], {"until": [], "max_gen_toks": 8})))[0]
    assert free
    stopped = model.generate_until(asked((TEXTS[1], {"until": [free[1:3]], "max_gen_toks": 8})))[0]
    assert free.startswith(stopped) and len(stopped) < len(free)
    options = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 5.0}
    drawn = model.generate_until(asked((TEXTS[1], options)))
    assert drawn == model.generate_until(asked((TEXTS[1], options))) and drawn != [free]


def test_a_run_that_is_not_there_is_a_persons_mistake(tmp_path: Path) -> None:
    from bench.lm_eval_adapter import DrawBenchLM

    with pytest.raises(UserError, match="no run in"):
        DrawBenchLM(run="x", out=str(tmp_path))
    with pytest.raises(UserError, match=r"unknown 'bse': did you mean 'base'\?"):
        DrawBenchLM(run="x", out=str(tmp_path), device="cpu", bse=True)


TASKS: dict[str, dict[str, Any]] = {
    "micro_choice": {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": ["things", "zebra"],
        "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc"}],
    },
    "micro_rolling": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "micro_writing": {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip


@pytest.mark.slow
def test_tasks_of_each_kind_run_through_the_harness_own_command_line(micro_run: MicroRun, tmp_path: Path) -> None:
    rows = [{"question": f"document {n} says {n * n}", "answer": 0} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        own: dict[str, Any] = {"task": name, "dataset_path": "json", "test_split": "test", **task,
               "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(json.dumps(own))  # JSON is YAML
    words = ["run", "--model", "draw-bench", "--model_args", f"run={micro_run.folder}", "--tasks", ",".join(TASKS),
             "--include_path", str(tmp_path), "--output_path", str(tmp_path / "found")]  # fmt: skip
    line = [sys.executable, "-m", "bench.lm_eval_adapter", *words]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(title in done.stdout for title in ("Tasks", "Metric", "Value", "Stderr")), done.stdout
    (file,) = (tmp_path / "found").rglob("results*.json")
    results = json.loads(file.read_text())["results"]
    assert 0 <= results["micro_choice"]["acc,none"] <= 1
    assert results["micro_rolling"]["word_perplexity,none"] > 1
    assert results["micro_writing"]["exact_match,none"] == 0  # of an untrained answer to no question
