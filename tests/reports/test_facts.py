"""What was the same for all: over every run, and of what a seed changes, within each seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from reports import facts
from reports.contenders import Contender, contenders
from reports.document import document
from reports.gather import Run
from reports.html import html
from reports.markdown import markdown
from reports.schema import Budgets
from tests.reports.records import contender, record_of, write_run


def made(approach: str, seed: int = 0, **identical: Any) -> Run:
    """A run whose batches and noise are its seed's own."""
    own: dict[str, Any] = {"batches": f"batches of {seed}", "noise": f"noise of {seed}", **identical}
    record = record_of(approach, seed=seed)
    changed = dataclasses.replace(record, identical=dataclasses.replace(record.identical, **own))
    return Run(record=changed, folder=Path("nowhere"))


def of(*runs: Run) -> tuple[Contender, ...]:
    return contenders(runs)


def unfair(*runs: Run) -> list[str]:
    return facts.unfair(facts.identical(of(*runs)))


@pytest.mark.parametrize("field", ["data", "text", "vae", "language_model"])
def test_no_seed_in_common_hides_no_difference(field: str):
    words = facts.SAME[field]
    assert words in unfair(made("modular", 0, **{field: "one"}), made("dual_tower", 1, **{field: "other"}))
    assert words not in unfair(made("modular", 0, **{field: "one"}), made("dual_tower", 1, **{field: "one"}))
    several = [made("modular", seed, **{field: "one"}) for seed in (0, 1)]
    assert words in unfair(*several, made("modular", 2, **{field: "other"}))


def test_a_difference_after_the_sixteenth_character_is_one():
    ends = ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-ema"), ("0" * 16 + "+1", "0" * 16 + "+2")
    for one, other in ends:
        assert unfair(made("modular", vae=one), made("dual_tower", vae=other)) == [facts.SAME["vae"]]
        rows = facts.identical(of(made("modular", vae=one), made("dual_tower", vae=other)))
        (vae,) = [row for row in rows if row.name == facts.SAME["vae"]]
        assert dict(vae.by) == {"modular": one, "dual_tower": other}  # and it can be seen
    rows = facts.identical(of(made("modular", vae=ends[1][0]), made("dual_tower", vae=ends[1][0])))
    assert [row.value for row in rows if row.name == facts.SAME["vae"]] == ["0" * 16 + "…"]


def test_another_tokenizer_is_no_fair_comparison():
    def with_files(run: Run, **files: str) -> Run:
        parts = {f"model.{name} files": value for name, value in files.items()}
        return dataclasses.replace(
            run, record=dataclasses.replace(run.record, provenance={**run.record.provenance, "key": parts})
        )

    one, other = made("modular"), made("dual_tower")
    name = facts.BESIDE["lm"]
    assert unfair(with_files(one, lm="a", vae="v"), with_files(other, lm="b", vae="v")) == [name]
    assert unfair(with_files(one, lm="a", vae="v"), with_files(other, lm="a", vae="v")) == []
    assert unfair(with_files(one, lm="a"), other) == []  # a record of before these were kept
    odd = dataclasses.replace(other, record=dataclasses.replace(other.record, provenance={"key": "text"}))
    assert unfair(one, odd) == []


def test_batches_and_noise_are_those_of_the_seed():
    pairs = [made(approach, seed) for approach in ("modular", "dual_tower") for seed in (0, 1)]
    assert unfair(*pairs) == []
    rows = {row.name: row for row in facts.identical(of(*pairs))}
    assert rows[facts.SAME["noise"]].value == "the same within each seed"
    assert unfair(*pairs[:3], made("dual_tower", 1, noise="another")) == [facts.SAME["noise"]]
    apart = unfair(made("modular", 0), made("dual_tower", 1))
    assert apart == [facts.SAME["batches"], facts.SAME["noise"]]
    assert unfair(made("modular", 0), made("modular", 1)) == []  # seeds of one contender


def test_who_has_what_is_told_of_every_run():
    rows = facts.identical(
        of(made("modular", 0, vae="one"), made("modular", 1, vae="one"), made("dual_tower", 0, vae=""))
    )
    (vae,) = [row for row in rows if row.name == facts.SAME["vae"]]
    assert vae.by == (("dual_tower", "–"), ("modular, seed 0", "one"), ("modular, seed 1", "one"))


def test_other_kernels_are_told_and_no_unfairness():
    kinds = {"modular": "eager", "dual_tower": "triton"}
    runs = [made(way, kernels={"norm": kind, "reasons": {"norm": f"{kind} is here"}}) for way, kind in kinds.items()]
    (kernel,) = [row for row in facts.identical(of(*runs)) if row.name.startswith("kernels")]
    assert kernel.name == "kernels: norm" and not kernel.same and not kernel.fatal and kernel.main
    assert unfair(*runs) == []


def test_notes_of_every_seed_are_told_with_whose_they_are():
    one, other = made("modular", 0), made("modular", 1)
    other = dataclasses.replace(other, record=dataclasses.replace(other.record, notes=("another",)))
    assert facts.notes(of(one)) == [("modular", "2 captions were cut")]
    assert facts.notes(of(one, other)) == [("modular", "2 captions were cut"), ("modular", "another")]
    assert dict((note, who) for who, note in facts.notes(of(one, other, made("dual_tower")))) == {
        "2 captions were cut": "all",
        "another": "modular",
    }


def test_how_to_run_it_again_says_what_package_an_approach_is_of(tmp_path: Path):
    ours = made("dual_tower")
    key = {"sources": "ab", "foreign sources": "0123456789abcdef0123"}
    theirs = dataclasses.replace(ours.record, approach="modular", provenance={**ours.record.provenance, "key": key})
    (first,), (second,) = (facts.reruns(of(run)) for run in (ours, Run(record=theirs, folder=Path("nowhere"))))
    assert (first.own, second.own) == ("", "0123456789abcdef")
    page = document([write_run(tmp_path / "run", theirs, pictures=False)])
    assert f"of its own package `{second.own}`" in markdown(page)[0]
    assert f"of its own package <code>{second.own}</code>" in html(page)


def test_what_was_spent_and_borrowed_is_written_in_millions():
    spent = Budgets(total=10**7, trainable=6 * 10**6, borrowed={"vae": 10**6, "language_model": 3_148_224})
    heads, (row,) = facts.budgets([contender("a", record_of("modular", budgets=spent, seconds={}))])
    told = dict(zip(heads, row.cells, strict=True))
    assert list(told.values()) == ["10 million", "6 million", "4.15 million"]
    assert (row.label, row.borrowed) == ("a", "vae 1 million, language model 3.15 million")
    _, (row,) = facts.budgets([contender("b", record_of("modular", budgets=Budgets(total=5)))])
    assert row.borrowed == "–"
