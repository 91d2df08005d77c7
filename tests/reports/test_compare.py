"""Two sets of runs, number by number: who has fallen, and what stands of all that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import UserError
from metrics.statistics import Estimate
from reports.compare import Line, _corrected, _fallen, comparison
from reports.contenders import Contender
from reports.gather import Gathered, Run
from reports.looks import has_a_part
from reports.schema import Budgets
from tests.reports.records import contender, record_of, write_run


def gathered(*statuses: str) -> Gathered:
    return Gathered(runs=tuple(Run(record=record_of("modular", status=s), folder=Path("x")) for s in statuses))


def test_what_is_done_beside_a_failed_attempt_has_not_fallen() -> None:
    assert _fallen(gathered("done"), gathered("failed", "done")) == []
    assert _fallen(gathered("done", "done"), gathered("failed", "done")) == ["modular, seed 0"]
    assert _fallen(gathered("done"), gathered("failed")) == ["modular, seed 0"]


def line(chance: float, word: str, counts: bool) -> Line:
    return Line(
        pair="b against a", metric="x", title="x", first="1", second="2", difference="1", word=word, paired=True,
        needed=None, counts=counts, reason="", values=(1.0, 0.1, 1.9), chance=chance,
    )  # fmt: skip


def test_the_correction_is_for_the_numbers_that_count_and_no_others() -> None:
    clock = line(0.9, "not told apart", counts=False)
    assert [each.stands for each in _corrected([line(0.04, "better", counts=True), clock])] == [True, False]
    other = line(0.9, "not told apart", counts=True)
    assert [each.stands for each in _corrected([line(0.04, "better", counts=True), other])] == [False, False]


def test_a_count_is_exact_beside_its_own_and_level_within_a_percent_beside_another(tmp_path: Path) -> None:
    def word(first: str, second: str, flops: float) -> str:
        places = []
        for approach, spent in ((first, 1e12), (second, flops)):
            budgets = Budgets(total=10**7, trainable=10**6, flops=spent)
            places.append(
                write_run(tmp_path / f"{len(list(tmp_path.iterdir()))}", record_of(approach, budgets=budgets))
            )
        (found,) = comparison(places[:1], places[1:], ("training_flops",)).lines
        return found.word

    assert word("modular", "modular", 1.001e12) == "worse"
    assert word("modular", "projection", 1.001e12) == "not told apart"
    assert word("modular", "projection", 1.02e12) == "worse"


def test_times_with_another_batch_are_not_compared_and_lost_where_they_were_named(tmp_path: Path) -> None:
    sides = []
    for rows, value in ((36, 0.01), (4, 0.03)):
        told = {"rows": rows, "machine": "A, 1 thread"}
        spent = Estimate(value=value, low=value, high=value, n=9, unit="s", better="lower", details=told)
        record = record_of("modular", metrics={"seconds_per_image": spent})
        sides.append(write_run(tmp_path / f"{rows}", record, pictures=False))
    (named,) = comparison(sides[:1], sides[1:], ["seconds_*"]).lines
    assert (named.word, named.reason) == ("not comparable", "taken with 36 and with 4 rows a batch")
    assert named.counts and named.lost
    unnamed = next(x for x in comparison(sides[:1], sides[1:]).lines if x.metric == "seconds_per_image")
    assert unnamed.word == "not comparable" and not unnamed.counts
    (same,) = comparison(sides[:1], sides[:1], ["seconds_*"]).lines
    assert same.word == "not told apart"


def test_what_is_of_true_pictures_alone_decides_nothing_unless_it_is_named(tmp_path: Path) -> None:
    sides: list[Path] = []
    contenders: list[Contender] = []
    for side, value in (("before", 20.0), ("after", 30.0)):
        made = {
            name: Estimate(value=value, low=value - 1, high=value + 1, n=9, better="lower")
            for name in ("null_fd_x", "vae_fd_x", "fd_x")
        }
        sides.append(write_run(tmp_path / side, record_of("modular", metrics=made), pictures=False))
        contenders.append(contender(side, **made))
    found = {line.metric: (line.word, line.counts) for line in comparison(sides[:1], sides[1:], ()).lines}
    told = ("null_fd_x", "vae_fd_x", "fd_x")
    assert {name: found[name] for name in told} == dict(zip(told, [("worse", n == "fd_x") for n in told], strict=True))
    (named,) = comparison(sides[:1], sides[1:], ("null_fd_x",)).lines
    assert named.counts
    assert [has_a_part(contenders[0], contenders[1], name) for name in told] == [False, False, True]


def test_a_named_number_that_nobody_measured_is_a_mistake_with_the_records_reason(tmp_path: Path) -> None:
    missing = Estimate.missing("the weights of Inception-v3 are not here", better="lower")
    there = Estimate(value=1.0, low=0.9, high=1.1, n=9, better="lower")
    places = [
        write_run(tmp_path / side, record_of("modular", metrics={"fid": fid, "fd_x": there}), pictures=False)
        for side, fid in (("a", missing), ("b", missing), ("c", there))
    ]
    for pattern in ("fid", "fi*"):
        with pytest.raises(UserError, match=r"fid is missing: .*the weights of Inception-v3 are not here"):
            comparison(places[:1], places[1:2], ["fd_x", pattern])
    assert [each.metric for each in comparison(places[:1], places[1:2], ["f*"]).lines] == ["fd_x"]
    (line,) = comparison(places[2:], places[:1], ["fid"]).lines
    assert line.lost and line.counts
