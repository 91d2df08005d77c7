"""A published table, tried: its orderings as data, and what numbers of known difference make of them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from approaches.registry import APPROACHES
from approaches.settings import DualTowerSettings, FullRetrainingSettings
from bench import array, cli, published, reproduce, runner, store
from bench.array_arguments import ArrayArguments
from bench.config import Config
from bench.console import Console
from bench.evaluate import CAPTIONS, LANGUAGE, LOSSES
from bench.exits import DONE, FAILED
from bench.files import read_json
from bench.picture_metrics import drawn_names
from bench.plain import build
from bench.presets import preset, shortened
from bench.reproduce import Work
from bench.reproduce_arguments import ReproduceArguments
from bench.run_arguments import with_settings
from metrics.statistics import Estimate
from reports import reproductions
from reports.contenders import BUDGETS
from reports.schema import Budgets, Identical, Record
from tests.bench import ways

TABLE = "x_fusion_table_1"


def test_every_table_names_approaches_settings_and_measures_that_exist() -> None:
    for name in published.names():
        table = published.table(name)
        assert table.name == name and table.source and table.note
        for row in table.rows:
            settings = published.settings_for(row, APPROACHES[row.approach].load_settings()())
            assert all(getattr(settings, key) == value for key, value in row.settings.items())
            assert row.published.keys() == table.measures.keys()
        assert all(measure.stands_in or measure.why_not for measure in table.measures.values())


def test_what_stands_in_for_a_measure_is_measured() -> None:
    measured = {*drawn_names(Config()), *CAPTIONS, *LANGUAGE, *LOSSES, *(name for name, _, _ in BUDGETS)}
    asked = {(t.name, each) for t in map(published.table, published.names()) for m in t.measures.values()
             for each in m.stands_in}  # fmt: skip
    assert len(asked) > 10 and {each for _, each in asked} <= measured


def test_the_other_tables_orderings_are_the_papers() -> None:
    found = {
        name: {(measure, better.name) for measure, better, _ in published.table(name).orderings()}
        for name in published.names()
        if name != TABLE
    }
    assert found == {
        "lmfusion": {(each, "lmfusion") for each in ("hellaswag", "cider", "fid", "relative_flops")},
        "transfusion_attention": {(each, "bidirectional") for each in ("fid", "clip", "cider")},
        "lmd": {(each, "planned") for each in ("negation", "numeracy", "attribute", "spatial", "all")},
    }


def test_a_table_sets_what_its_comparison_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []

    def execute(request: store.Request, out: Path, console: Console) -> runner.Ended:
        asked.append(request.config)
        state = store.State(state="failed", reason="not here")
        return runner.Ended(request=request, folder=out / request.name, state=state, record=None, code=FAILED)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(array, "contents", lambda config, progress: {"data": "pictures", "text": "words"})
    own = ways.micro(tmp_path)
    own = dataclasses.replace(own, train=dataclasses.replace(own.train, patch_channels=8))
    linear = dataclasses.replace(own, train=dataclasses.replace(own.train, patch_channels=0))
    unguided = dataclasses.replace(own, diffusion=dataclasses.replace(own.diffusion, guidance=1.0))
    for table, expected in (("transfusion_attention", linear), ("lmfusion", unguided), ("lmd", own)):
        asked.clear()
        arguments = ReproduceArguments(table=table, out=tmp_path / table, seeds=1)
        assert reproduce.main(arguments, own, Console(interval=1e9)) == FAILED
        assert asked == [expected, expected]


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_rows_at_equal_rates_learn_at_the_highest_of_theirs(preset: str) -> None:
    table = published.table("x_fusion_table_1")
    defaults = {row.approach: APPROACHES[row.approach].load_settings().of_preset(preset) for row in table.rows}
    highest = max(settings.learning_rate for settings in defaults.values())
    found = published.settings_of_rows(table, defaults)
    assert {settings.learning_rate for settings in found.values()} == {highest}
    assert found["single_tower"].replay_share == 0 and found["gated_tower"].variant == "gated"
    apart = published.settings_of_rows(dataclasses.replace(table, equal_rates=False), defaults)
    assert {name: s.learning_rate for name, s in apart.items()} == {
        row.name: defaults[row.approach].learning_rate for row in table.rows
    }


PAGE = Path(__file__).parents[2] / "docs" / "published-tables.md"


def own(**more: Any) -> dict[str, Any]:
    """The page's example of a table of one's own, with other fields."""
    values: dict[str, Any] = json.loads(
        re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    )
    return values | more


def test_a_table_of_ones_own_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(own()))
    found = published.table(str(file))
    assert [(m, better.name, worse.name) for m, better, worse in found.orderings()] == [
        ("text", "lora", "all"), ("faces", "all", "lora"),
    ]  # fmt: skip
    assert published.settings_for(found.rows[1], FullRetrainingSettings(learning_rate=3e-4)) == FullRetrainingSettings(
        learning_rate=3e-4, variant="lora"
    )
    assert found.config == {} and found.note


def row(**more: Any) -> dict[str, Any]:
    return {"name": "all", "approach": "full_retraining", "published": {"text": 51.0, "faces": 3.0}, **more}


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"rowz": []}, "unknown field 'rowz': did you mean 'rows'?"),
        ({"name": "../x"}, "name is '../x', expected small letters"),
        ({"rows": [row()]}, "rows must be two or more"),
        ({"rows": [row(), row()]}, "with different names"),
        ({"rows": [row(), row(name="b", approach="dual_towr")]}, "row 'b': unknown approach 'dual_towr': did you mean"),
        (
            {"rows": [row(), row(name="b", settings={"varint": "lora"})]},
            "row 'b': unknown field 'varint': did you mean",
        ),
        ({"rows": [row(), row(name="b", settings={"lora_rank": 0})]}, "row 'b': lora_rank is 0, expected"),
        (
            {"rows": [row(), row(name="b", settings={"variant": "lora", "lm_learning_rate_ratio": 0.5})]},
            "row 'b': settings.lm_learning_rate_ratio is a rate of weights of a language model",
        ),
        ({"rows": [row(), row(name="b", published={"text": 1.0})]}, "row 'b' has published numbers of text, expected"),
        ({"measures": {"text": {"better": "up"}}}, "measures.text.better is 'up'"),
        (
            {"measures": {"text": {"better": "higher"}, "faces": {"better": "lower", "why_not": "x"}}},
            "nothing in stands",
        ),
        ({"config": {"train": {"patch_chanels": 0}}}, "unknown field 'train.patch_chanels': did you mean"),
        ({"config": {"train": {"batch": 0}}}, "train.batch is 0, expected"),
        (
            {"config": {"train": {"budget": "steps"}}},
            "train.budget is steps, and train.amount is still the 10800",
        ),
        ({"config": {"preset": "base"}}, "config holds preset, which --preset chooses: expected fields such as train"),
    ],
)
def test_a_mistake_in_it_gets_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(own(**changes)))
    assert cli.main(["reproduce", str(file), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert sentence in told and str(file) in told and not (tmp_path / "out").exists()


def test_counted_costs_stand_in_too() -> None:
    def row(name: str, flops: list[float]) -> reproductions.Row:
        runs = tuple(
            reproductions.Done(
                seed=seed, folder="", state="done",
                metrics={"training_flops": Estimate.counted(each, unit="FLOP", better="lower")},
            )
            for seed, each in enumerate(flops)
        )  # fmt: skip
        return reproductions.Row(name=name, approach="", settings={}, published={}, runs=runs)

    table = published.table("lmfusion")
    for flops, expected in (([5.0, 5.0], "holds"), ([9.0, 9.0], "contradicted"), ([7.0, 7.0], "not told apart")):
        rows = [row("transfusion", [7.0, 7.0]), row("lmfusion", flops)]
        stands = [reproduce.stand(name, measure, rows) for name, measure in table.measures.items()]
        said = {each.measure: each.verdict for each in reproduce.orderings(table, rows, stands)}
        assert said["relative_flops"] == expected and said["cider"] == "not measured"


def test_a_number_without_better_and_worse_stands_for_nothing() -> None:
    metrics = {"nearest_training_distance": Estimate(value=3.0, n=9, reason="x")}
    runs = (reproductions.Done(seed=0, folder="", state="done", metrics=metrics),)
    row = reproductions.Row(name="one", approach="", settings={}, published={}, runs=runs)
    measure = published.Measure(better="lower", stands_in=("nearest_training_distance",))
    found = reproduce.stand("novelty", measure, [row])
    assert (found.metric, found.reason) == ("", "nearest_training_distance has no better and worse")


def test_the_orderings_are_those_of_the_paper() -> None:
    found = [(m, better.name, worse.name) for m, better, worse in published.table(TABLE).orderings()]
    chain = ["dual_tower", "single_tower", "dual_projection", "gated_tower"]  # by FID, the least first
    fid = [("fid", a, b) for place, a in enumerate(chain) for b in chain[place + 1 :]]
    assert sorted(each for each in found if each[0] == "fid") == sorted(fid)
    text = [("mmlu", each, "single_tower") for each in ("dual_projection", "dual_tower", "gated_tower")]
    assert sorted(each for each in found if each[0] == "mmlu") == text  # equal numbers have no order
    assert len(found) == 6 + 3 + 6 + 6


Numbers = Callable[[published.Row, int], dict[str, float]]


def faked(monkeypatch: pytest.MonkeyPatch, numbers: Numbers, *, failing: tuple[str, int] | None = None) -> list[str]:
    """In place of a run: a record with these numbers. The names of the runs asked for."""
    asked: list[str] = []

    def execute(request: store.Request, out: Path, console: Console) -> runner.Ended:
        row = next(
            row
            for row in published.table(TABLE).rows
            if row.approach == request.approach and row.settings.items() <= request.settings.items()
        )
        seed = request.config.seed
        asked.append(row.name)
        if failing == (row.name, seed):
            state = store.State(state="failed", reason="the loss is nan")
            return runner.Ended(request=request, folder=out / request.name, state=state, record=None, code=FAILED)
        metrics = {
            name: Estimate.counted(value, unit="", better="lower" if "loss" in name or "fd" in name else "higher")
            for name, value in numbers(row, seed).items()
        }
        record = Record(
            key=request.key, name=request.name, approach=request.approach, settings=request.settings, config={},
            status="done", budgets=Budgets(steps=5, images=60), identical=Identical(batches=f"digest of {seed}"),
            metrics=metrics, seconds={"train": 2.0},
        )  # fmt: skip
        state = store.State(state="done")
        return runner.Ended(request=request, folder=out / request.name, state=state, record=record, code=DONE)

    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr(array, "contents", lambda config, progress: {"data": "pictures", "text": "words"})
    return asked


def tried(tmp_path: Path, **more: Any) -> tuple[int, reproductions.Reproduction]:
    arguments = ReproduceArguments(table=TABLE, out=tmp_path / "out", **more)
    code = reproduce.main(arguments, ways.micro(tmp_path), Console(interval=1e9))
    (file,) = (tmp_path / "out").glob(f"{TABLE}-*.json")
    return code, build(reproductions.Reproduction, read_json(file), full=True)


PLACE = {"dual_tower": 1.0, "dual_projection": 2.0, "single_tower": 3.0, "gated_tower": 3.0}


def numbers(row: published.Row, seed: int) -> dict[str, float]:
    """Losses far apart but for two rows that are equal up to noise; retention of the frozen rows exactly 1."""
    noise = 0.01 * (-1) ** (seed + len(row.name))
    retention = 0.9 + noise if row.name == "single_tower" else 1.0
    return {"validation_loss": PLACE[row.name] + noise, "perplexity_retention": retention}


def test_orderings_hold_are_contradicted_or_not_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = faked(monkeypatch, numbers)
    code, found = tried(tmp_path)
    assert code == 0 and found.status == "done" and found.seeds == (0, 1, 2) and len(asked) == 12
    assert [known.metric for known in found.stands] == ["validation_loss", "", "", "perplexity_retention"]
    assert "fd_efficientnet_lite0 is missing in 12 of 12 runs" in found.stands[0].reason
    said = {(each.measure, each.better, each.worse): each.verdict for each in found.orderings}
    assert said["fid", "dual_tower", "gated_tower"] == "holds"
    assert said["fid", "single_tower", "dual_projection"] == "contradicted"
    assert said["fid", "single_tower", "gated_tower"] == "not told apart"
    assert said["mmlu", "dual_tower", "single_tower"] == "holds"
    assert (
        said["clip", "dual_tower", "single_tower"] == said["blip2_itm", "dual_tower", "single_tower"] == "not measured"
    )
    gap = next(e.difference for e in found.orderings if (e.better, e.worse) == ("single_tower", "dual_projection"))
    assert gap.n == 3 and gap.value == pytest.approx(1.0, abs=0.03) and gap.details["seeds"] == [0, 1, 2]
    text = capsys.readouterr().out
    assert "validation_loss stands for fid: fid is missing" in text and "not told apart" in text
    for page in (tmp_path / "out" / f"{found.name}{ending}" for ending in (".html", ".md")):
        assert f"wrote {page}" in text and "Of 21 published orderings" in page.read_text(encoding="utf-8")
    (note,) = found.notes
    assert note.startswith("3 orderings rest on one and the same difference in perplexity_retention, and count as one")


def test_the_nearest_metric_to_the_published_one_stands_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, lambda row, seed: {**numbers(row, seed), "fd_efficientnet_lite0": PLACE[row.name]})
    _, found = tried(tmp_path, seeds=2)
    assert found.stands[0].metric == "fd_efficientnet_lite0"
    assert "fewer than three seeds" in found.notes[0]
    equal = next(
        e for e in found.orderings if (e.measure, e.worse) == ("fid", "gated_tower") and e.better == "single_tower"
    )
    assert equal.difference.value == 0 and equal.verdict == "not told apart"


def test_a_run_that_failed_is_told_and_compares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faked(monkeypatch, numbers, failing=("gated_tower", 1))
    code, found = tried(tmp_path)
    assert code == FAILED and found.status == "failed" and "not all runs are done: gated_tower" in found.notes
    compared = next(e for e in found.orderings if (e.measure, e.worse) == ("fid", "gated_tower"))
    assert compared.difference.details["seeds"] == [0, 2]


def test_an_array_does_the_same_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that many can be done at a time, here or in a queue, and be judged afterwards."""
    faked(monkeypatch, numbers)
    config, out, console = ways.micro(tmp_path), tmp_path / "out", Console(interval=1e9)
    work = reproduce.Work(ReproduceArguments(table=TABLE, out=out), config, console)
    of_table = {work.request(point).name for point in work.points}
    rows, config = published.table(TABLE).rows, published.config_for(published.table(TABLE), config)
    asking: Any = with_settings(ArrayArguments, FullRetrainingSettings(replay_share=0.0, learning_rate=2e-3))
    single = asking(approach=(rows[0].approach,), seeds=3, out=out / reproduce.RUNS)
    variants = tuple(row.settings["variant"] for row in rows[1:])
    asking = with_settings(ArrayArguments, DualTowerSettings(words="frozen"))
    towers = asking(approach=("dual_tower",), seeds=3, out=single.out, field="settings.variant", values=variants)
    asked = [request.name for arguments in (single, towers) for request in array.plan(arguments, config, console)]
    assert sorted(asked) == sorted(of_table) and len(of_table) == 12


def test_a_share_is_of_the_budget_that_the_table_sets(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(own(config={"train": {"amount": 480.0}})))
    arguments = ReproduceArguments(table=str(file), share=0.5, out=tmp_path / "out")
    assert Work(arguments, preset("smoke"), Console(interval=1e9)).config.train.amount == 240


def test_a_share_of_the_budget_shrinks_the_warmup_alike() -> None:
    train = Config().train
    assert shortened(train, 1.0) == train
    quarter = shortened(train, 0.25)
    assert quarter.amount == train.amount / 4 and quarter.warmup == round(train.warmup / 4)
    assert dataclasses.replace(quarter, amount=train.amount, warmup=train.warmup) == train
    assert shortened(train, 1e-6).warmup == 1 and shortened(dataclasses.replace(train, warmup=0), 0.5).warmup == 0


def test_mistakes_are_answered_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["reproduce"], "needs a TABLE, expected one of: lmd, lmfusion, transfusion_attention, x_fusion_table_1"),
        (["reproduce", "nowhere.json"], "no such file: nowhere.json"),
        (["reproduce", "x_fusion_table_2"], "did you mean 'x_fusion_table_1'"),
        (["reproduce", TABLE, "--share", "0"], "share is 0.0, expected a value above 0"),
        (["reproduce", TABLE, "--seeds", "0"], "seeds is 0, expected"),
    ):
        assert cli.main(words) == 2
        assert sentence in capsys.readouterr().err
