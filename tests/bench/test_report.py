"""`report` and `compare` as a person types them: files, sentences, exit codes, and no torch."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli, store
from bench.console import Console
from bench.report import after_run
from metrics.statistics import Estimate, mean_estimate
from reports import schema
from reports.markdown import plain
from reports.schema import Budgets, Record
from tests.reports.records import APPROACHES, distance_at, four, mean_at, record_of, whole, write_run

FREE = (
    "import sys; from bench.cli import main; code = main(sys.argv[1:]);"
    "sys.exit(99 if {'torch', 'transformers', 'diffusers'} & set(sys.modules) else code)"
)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("report --out no/such", "no folder no/such: python -m bench run --out no/such makes some runs"),
        ("report nowhere --out no/such", "no run 'nowhere': and no/such holds no runs"),
        ("report . --to README.md", "--to README.md is a file, expected a folder"),
        ("compare one", "'compare' needs two, A and B"),
        ("compare nowhere README.md", "no run 'nowhere'"),
        ("report --too x", "did you mean --to?"),
    ],
)
def test_a_mistake_gets_one_sentence(capsys: pytest.CaptureFixture[str], line: str, sentence: str):
    assert cli.main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and sentence in captured.err, captured.err


def test_a_report_is_five_files_and_what_was_refused_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = whole(tmp_path / "runs")
    assert cli.main(["report", str(out)]) == 0
    captured = capsys.readouterr()
    for name in ("report.html", "report.md", "results.csv", "samples.csv", "results.json"):
        assert f"wrote {out / name}" in captured.out and (out / name).stat().st_size > 500
    assert captured.err.count("warning: refused") == 4
    noted = json.loads((out / "results.json").read_text())["notes"]
    text = (out / "report.md").read_text()
    assert noted and all(plain(each["note"]) in text for each in noted)
    # Made again, with the report among the runs, it is the same to the byte.
    before = {path: path.read_bytes() for path in out.rglob("report*") if path.is_file()}
    assert cli.main(["report", str(out), "--to", str(tmp_path / "again")]) == 0
    for path, data in before.items():
        assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == data


def test_it_goes_beside_the_runs_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "runs" / "modular-tiny-01", record_of("modular"))
    assert cli.main(["report", "modular-tiny", "--out", str(folder.parent), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] == [] and [Path(path).parent for path in told["files"]] == [folder.parent] * 5
    assert "modular-tiny" in (folder.parent / "report.html").read_text()


def test_with_nothing_that_reads_it_is_a_mistake_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "record.json").write_text("{")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "report.html").write_text("a good one")
    assert cli.main(["report", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr()
    assert "warning: refused" in said.err and "no report: no record was read" in said.err and "wrote" not in said.out
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["report.html"]
    assert (tmp_path / "to" / "report.html").read_text() == "a good one"


def test_samples_of_an_earlier_report_go_and_somebody_s_own_stay(tmp_path: Path):
    bare = str(write_run(tmp_path / "bare", record_of("modular", samples=()), pictures=False))
    full = str(write_run(tmp_path / "full", record_of("modular", seed=1), pictures=False))
    to = tmp_path / "to"
    to.mkdir()
    (to / "samples.csv").write_text("mine")
    assert cli.main(["report", bare, "--to", str(to)]) == 0
    assert (to / "samples.csv").read_text() == "mine"
    other = tmp_path / "other"
    assert cli.main(["report", full, "--to", str(other)]) == 0
    assert (other / "samples.csv").exists()
    assert cli.main(["report", bare, "--to", str(other)]) == 0
    assert not (other / "samples.csv").exists()


@pytest.mark.parametrize("name", ["results.csv", "samples.csv", "report.md", "report.html", "results.json"])
def test_beside_a_run_somebody_s_own_file_is_not_replaced_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    run = write_run(tmp_path / "run", record_of("modular"), pictures=False)
    (tmp_path / name).write_text('{"mine": 1}')
    assert cli.main(["report", str(run)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and f"{tmp_path / name} is there" in captured.err and "--to" in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run", name])
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    store.write_state(run, "done")
    after_run([run], tmp_path, Console())
    assert "warning: no report: " in capsys.readouterr().err and (tmp_path / name).read_text() == '{"mine": 1}'


def test_an_own_report_is_replaced_and_a_folder_that_was_named_is_taken(tmp_path: Path):
    run = write_run(tmp_path / "run", record_of("modular"), pictures=False)
    (tmp_path / "results.csv").write_text("mine")
    assert cli.main(["report", str(run), "--to", str(tmp_path)]) == 0
    (tmp_path / "report.html").unlink()  # what an interrupted one leaves
    assert cli.main(["report", str(run)]) == 0
    assert (tmp_path / "results.csv").read_text() != "mine" and (tmp_path / "report.html").exists()


def test_a_report_s_pictures_are_not_written_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "runs" / "run", record_of("modular"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "report-pictures").symlink_to(tmp_path / "elsewhere")
    assert cli.main(["report", str(run), "--to", str(tmp_path / "to")]) == 2
    assert "report-pictures is a link, expected a folder" in capsys.readouterr().err
    assert not any((tmp_path / "elsewhere").iterdir())
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["report-pictures"]


def test_results_for_machines_are_the_records_numbers(tmp_path: Path):
    out = four(tmp_path / "runs", seeds=2)
    assert cli.main(["report", str(out)]) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text(encoding="utf-8").splitlines()))
    for approach in APPROACHES:
        for seed in (0, 1):
            record = record_of(approach, seed=seed)
            own = {r["metric"]: r for r in rows if r["approach"] == approach and r["seed"] == str(seed)}
            for name, estimate in record.metrics.items():
                assert (float(own[name]["value"]) if own[name]["value"] else None) == estimate.value
                assert own[name]["reason"] == estimate.reason
        means = {r["metric"]: r for r in rows if r["approach"] == approach and r["seed"] == ""}
        assert float(means["caption_gap"]["n"]) == 2
    values = json.loads((out / "results.json").read_text())
    assert len(values["results"]) == len(rows) and len(values["contenders"]) == 4
    pairs = {(d["first"], d["second"]) for d in values["differences"]}
    assert len(pairs) == 6
    assert "per_item" not in (out / "results.json").read_text()


def test_a_report_that_can_t_be_written_changes_nothing_of_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_run(tmp_path / "a", record_of("modular"), pictures=False)
    store.write_state(folder, "done")
    (tmp_path / "blocked").write_text("")
    after_run([folder], tmp_path / "blocked" / "in", Console())
    assert "warning: no report: can't write" in capsys.readouterr().err


def test_a_run_s_own_report_says_how_to_have_the_other_runs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "runs"
    folders = [write_run(out / name, record_of(name), pictures=False) for name in ("modular", "projection")]
    after_run(folders, out, Console())  # none is done: a report of other runs that is there stays
    assert not (out / "report.html").exists()
    for folder in folders:
        store.write_state(folder, "done")
    after_run(folders[:1], out, Console())
    assert "others" not in capsys.readouterr().out  # a folder that is no run
    for folder in folders:
        (folder / "request.json").write_text(json.dumps({"approach": folder.name, "key": "k"}))
    after_run(folders[:1], out, Console())
    assert f"to have what else is in {out} (1) in it: python -m bench report {out}" in capsys.readouterr().out
    after_run(folders, out, Console())
    assert "else" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- compare


def pair(tmp_path: Path, *, better: str = "higher", unit: str = "", **gaps: Any) -> tuple[str, str]:
    """Two runs of one approach, the second better by these gaps in the named numbers."""
    made = []
    for side in ("a", "b"):
        # Noise of its own: the differences of the items must have a spread.
        metrics = {
            name: mean_at(1 + (gap if side == "b" else 0), f"{name}{side}", better=better, unit=unit)
            for name, gap in gaps.items()
        }
        record = record_of("modular", metrics=metrics, budgets=Budgets(), seconds={})
        made.append(str(write_run(tmp_path / side, record, pictures=False)))
    return made[0], made[1]


@pytest.mark.parametrize(
    ("gaps", "more", "code"),
    [
        ({"x": 0.0, "y": 0.0}, [], 0),
        ({"x": 0.5, "y": 0.0}, [], 0),
        ({"x": -0.5, "y": 0.0}, [], 1),
        ({"x": -0.5, "y": 0.0}, ["--metrics", "y"], 0),
        ({"x": -0.5, "y": 0.0}, ["--metrics", "x*"], 1),
    ],
)
def test_the_exit_code_says_whether_b_is_worse(tmp_path: Path, gaps: dict[str, Any], more: list[str], code: int):
    assert cli.main(["compare", *pair(tmp_path, **gaps), *more]) == code


def test_a_run_that_has_only_begun_is_no_mistake_of_b_where_a_has_none_of_it(tmp_path: Path):
    both = [tmp_path / side for side in "ab"]
    for side in both:
        write_run(side / "modular", record_of("modular"), pictures=False)
    (both[1] / "projection").mkdir()
    (both[1] / "projection" / "request.json").write_text("{}")
    assert cli.main(["compare", *map(str, both)]) == 0
    (both[1] / "projection" / "record.json").write_text("torn")
    assert cli.main(["compare", *map(str, both)]) == 1


def test_what_is_just_told_apart_does_not_stand_among_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    others: dict[str, Any] = {f"y{i}": 0.0 for i in range(20)}
    two = pair(tmp_path, x=-0.055, **others)
    assert cli.main(["compare", *two]) == 1
    said = " ".join(capsys.readouterr().out.split())
    holm = "With Holm's correction for all 21 (one training a side: the chance of other items alone), B is better in 0"
    assert f"{holm} and worse in 0." in said
    assert cli.main(["compare", *two, "--holm", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (line,) = [line for line in told["lines"] if line["metric"] == "x"]
    assert 0.05 / 21 < line["chance"] < 0.05 and told["worse"] == ["x"] and not line["stands"]
    assert cli.main(["compare", *two, "--holm", "--metrics", "x"]) == 1
    assert cli.main(["compare", *pair(tmp_path / "far", x=-0.5, y=0.0), "--holm"]) == 1


def test_numbers_made_otherwise_are_not_compared_and_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(place: str, **more: Any) -> str:
        metrics = {
            "fd_efficientnet_lite0": distance_at(9.0, place, **({"spread": 0.4} if more else {})),
            "clip_score": mean_at(1, place, better="higher"),
        }
        changed = {name: dataclasses.replace(metrics[name], **change) for name, change in more.items()}
        record = record_of("modular", metrics={**metrics, **changed}, budgets=Budgets(), seconds={})
        return str(write_run(tmp_path / place, record, pictures=False))

    a, same = run("a"), run("b")
    assert cli.main(["compare", a, same, "--metrics", "clip_score"]) == 0
    fewer = run("fewer", fd_efficientnet_lite0={"n": 63})
    other = run("other", clip_score={"details": {**mean_at(1, "other").details, "weights": "f00d"}})
    judged = run("judged", clip_score={"details": {**mean_at(1, "judged").details, "weights": "cafe"}})
    capsys.readouterr()
    assert cli.main(["compare", a, fewer]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "B has otherwise than A 1: fd_efficientnet_lite0 (of 64 and of 63 pictures" in said
    assert cli.main(["compare", other, judged, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (line,) = [line for line in told["lines"] if line["metric"] == "clip_score"]
    assert (line["word"], line["reason"]) == ("not comparable", "made with other weights: f00d and cafe")


def test_what_is_shown_is_over_the_seeds_that_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for side, seeds in (("a", (0, 1, 2)), ("b", (1,))):
        for seed in seeds:
            x = mean_at(1.0 + seed, f"x{seed}", better="higher")
            record = record_of("modular", seed=seed, metrics={"x": x}, budgets=Budgets(), seconds={})
            write_run(tmp_path / side / str(seed), record, pictures=False)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["lines"]
    assert line["first"] == line["second"] and line["values"][0] == 0


def test_lower_is_better_where_the_record_says_so_and_clocks_do_not_judge(tmp_path: Path):
    assert cli.main(["compare", *pair(tmp_path / "1", better="lower", x=-0.5)]) == 0
    assert cli.main(["compare", *pair(tmp_path / "2", better="lower", x=0.5)]) == 1
    slower = pair(tmp_path / "3", better="lower", unit="s", x=0.5)
    assert cli.main(["compare", *slower]) == 0
    assert cli.main(["compare", *slower, "--metrics", "x"]) == 1


def test_the_difference_is_told_with_its_interval_and_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["compare", *pair(tmp_path, x=-0.5, y=0.001), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    lines = {line["metric"]: line for line in told["lines"]}
    assert (lines["x"]["word"], lines["y"]["word"], told["worse"]) == ("worse", "not told apart", ["x"])
    value, low, high = lines["x"]["values"]
    assert value == pytest.approx(-0.5) and low <= value <= high < 0
    assert lines["x"]["paired"] and lines["y"]["needed"] is not None


def test_sets_are_paired_by_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, second = four(tmp_path / "one", seeds=2), four(tmp_path / "two", seeds=2)
    assert cli.main(["compare", str(first), str(second), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["lines"]
    assert {line["pair"] for line in lines} == set(APPROACHES)
    assert {line["word"] for line in lines} == {"not told apart"}
    some = f"{second / 'modular-0'},{second / 'dual_tower-0'}"
    assert cli.main(["compare", str(first), some, "--metrics", "caption_gap"]) == 0
    assert "nobody to compare with: full_retraining (first only)" in capsys.readouterr().err


def test_two_approaches_are_compared_where_each_set_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = four(tmp_path / "runs")
    assert cli.main(["compare", str(out / "full_retraining-0"), str(out / "dual_tower-0")]) == 1
    said = capsys.readouterr().out
    assert "dual_tower against full_retraining" in said and "worse in" in said
    assert (
        cli.main(["compare", f"{out}/full_retraining-0,{out}/modular-0", f"{out}/dual_tower-0,{out}/projection-0"]) == 2
    )
    assert "nobody to compare: the first set has full_retraining, modular" in capsys.readouterr().err


def test_what_can_t_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = pair(tmp_path, x=0.0)
    assert cli.main(["compare", a, b, "--metrics", "z"]) == 2
    assert "no number 'z' in either set" in capsys.readouterr().err
    full = str(write_run(tmp_path / "full", record_of("modular"), pictures=False))
    assert cli.main(["compare", full, full, "--metrics", "fid"]) == 2
    assert "fid is missing: " in capsys.readouterr().err
    lost: Record = dataclasses.replace(record_of("modular"), status="failed", reason="a fire")
    gone = write_run(tmp_path / "lost", lost, pictures=False)
    assert cli.main(["compare", a, str(gone)]) == 2
    assert "no done run in" in (said := capsys.readouterr().err) and "a fire" in said
    other = record_of(
        "modular", metrics={"x": Estimate.missing("no x", better="higher")}, budgets=Budgets(), seconds={}
    )
    changed = dataclasses.replace(other, identical=dataclasses.replace(other.identical, data="another"))
    assert cli.main(["compare", a, str(write_run(tmp_path / "other", changed, pictures=False))]) == 1
    captured = capsys.readouterr()
    assert "no fair comparison: they differ in pictures and captions" in captured.err and "missing" in captured.out


def test_what_b_has_lost_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = pair(tmp_path, x=0.0, y=0.0)
    short = record_of("modular", metrics={"x": mean_at(1, "xb", better="higher")}, budgets=Budgets(), seconds={})
    less = str(write_run(tmp_path / "less", short, pictures=False))
    assert cli.main(["compare", a, less]) == 1
    assert "B has lost 1: y." in capsys.readouterr().out
    assert cli.main(["compare", a, less, "--metrics", "x"]) == 0
    assert cli.main(["compare", less, a]) == 0  # a number more is no loss
    capsys.readouterr()
    assert cli.main(["compare", a, less, "--metrics", "y", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["lost"] == ["y"]


def test_another_record_of_the_same_run_is_told_and_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = record_of("modular")
    for name, notes in (("a", ()), ("b", ("measured again",))):
        write_run(tmp_path / name, dataclasses.replace(record, notes=notes), pictures=False)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path), "--metrics", "caption_gap"]) == 0
    assert "b/record.json: left out beside another record of the same run: a/record.json counts" in (
        capsys.readouterr().err
    )


def test_a_number_that_one_seed_lacks_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for side in "ab":
        for seed in (0, 1):
            x = mean_at(1, f"x{side}{seed}", better="higher")
            if (side, seed) == ("b", 1):
                x = Estimate.missing("a nan", better="higher")
            record = record_of("modular", seed=seed, metrics={"x": x}, budgets=Budgets(), seconds={})
            write_run(tmp_path / side / str(seed), record, pictures=False)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "B has lost 1: x." in capsys.readouterr().out
    assert cli.main(["compare", str(tmp_path / "b"), str(tmp_path / "a")]) == 0


def test_one_of_two_settings_that_failed_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for side in "ab":
        for variant in ("dense", "gated"):
            record = record_of("dual_tower", settings={"variant": variant}, key=f"{side}{variant}")
            if (side, variant) == ("b", "gated"):
                record = dataclasses.replace(record, status="failed", reason="a fire")
            write_run(tmp_path / side / variant, record, pictures=False)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--metrics", "caption_gap"]) == 1
    assert "B did not come to an end, as A did: dual_tower, seed 0." in capsys.readouterr().out


def test_what_was_not_spent_is_not_lost(tmp_path: Path):
    a, b = [
        record_of("modular", metrics={"x": mean_at(1, f"x{side}", better="higher")}, budgets=budgets, seconds={})
        for side, budgets in (("a", Budgets(flops=1e9, borrowed={"vae": 5})), ("b", Budgets()))
    ]
    folders = [str(write_run(tmp_path / name, record, pictures=False)) for name, record in (("a", a), ("b", b))]
    assert cli.main(["compare", *folders]) == 0


def test_a_long_list_of_runs_is_no_file_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = [str(write_run(tmp_path / f"run-{n}", record_of("modular", seed=n), pictures=False)) for n in range(9)]
    assert cli.main(["compare", ",".join(names), ",".join(names), "--metrics", "caption_gap"]) == 0
    assert cli.main(["report", ",".join(["x" * 40] * 9)]) == 2
    comma = write_run(tmp_path / "a,b", record_of("modular"), pictures=False)
    assert cli.main(["compare", str(comma), str(comma), "--metrics", "caption_gap"]) == 0


def test_runs_and_seeds_that_take_no_part_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, second = four(tmp_path / "one", seeds=3), four(tmp_path / "two", seeds=2)
    lost = dataclasses.replace(record_of("modular", seed=2), status="failed", reason="a fire")
    write_run(second / "modular-2", lost, pictures=False)
    assert cli.main(["compare", str(first), str(second), "--metrics", "caption_gap"]) == 1
    told = capsys.readouterr()
    said = told.err
    assert "B did not come to an end, as A did: modular, seed 2." in told.out
    assert "not compared: modular" in said and "is failed: a fire" in said
    assert "nobody to compare with: modular, seed 2 (first only)" in said
    assert "no fair comparison" not in said


def test_neither_imports_torch(tmp_path: Path):
    out = four(tmp_path / "runs")
    lines = (["report", str(out)], ["compare", str(out / "modular-0"), str(out / "modular-0")])
    for line in lines:
        done = subprocess.run([sys.executable, "-c", FREE, *line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_beginning_means_all_seeds_of_one_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = four(tmp_path / "runs", seeds=2)
    words = ["--metrics", "caption_gap", "--json", "--out", str(out)]
    assert cli.main(["compare", "full_retraining", "dual_tower", *words]) == 1
    told = json.loads(capsys.readouterr().out)
    both = ",".join(str(out / f"dual_tower-{seed}") for seed in (0, 1))
    assert cli.main(["compare", "full_retraining-0, full_retraining-1", both, *words]) == 1
    assert json.loads(capsys.readouterr().out) == told and len(told["lines"]) == 1
    one = json.loads((out / "dual_tower-0" / "record.json").read_text())
    changed = record_of("dual_tower", seed=5, settings=one["settings"] | {"variant": "gated"})
    write_run(out / "dual_tower-5", changed, pictures=False)
    assert cli.main(["compare", "full_retraining", "dual_tower", *words]) == 2
    error = capsys.readouterr().err
    assert "'dual_tower' begins runs of 2 contenders, expected one's: " in error and "variant gated" in error
    assert cli.main(["compare", "full_retraining", "dual_tower-5", *words]) in (0, 1)
    dead = record_of("full_retraining", seed=1, status="killed", reason="yesterday", metrics={},
                     provenance={**record_of("full_retraining").provenance, "key": {"sources": "others"}})  # fmt: skip
    write_run(out / "full_retraining-dead", dead, pictures=False)
    capsys.readouterr()
    assert cli.main(["compare", "full_retraining", "dual_tower-0", *words]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["unfinished"] == []
    shutil.rmtree(out / "full_retraining-dead")
    capsys.readouterr()
    assert cli.main(["report", "dual_tower", "--out", str(out), "--to", str(tmp_path / "to")]) == 0
    rows = list(csv.DictReader((tmp_path / "to" / "results.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["approach"] for row in rows} == {"dual_tower"} and {row["seed"] for row in rows} >= {"0", "1", "5"}


@pytest.mark.parametrize("what", ["failed", "torn", "begun"])
def test_a_seed_that_came_to_nothing_is_no_pass_by_the_beginning_of_its_name_either(tmp_path: Path, what: str):
    a, b = (four(tmp_path / side, seeds=2) for side in "ab")
    if what == "torn":
        (b / "modular-1" / "record.json").write_text("torn")
    elif what == "begun":
        (b / "modular-1" / "record.json").unlink()
        (b / "modular-1" / "request.json").write_text(json.dumps({"approach": "modular", "config": {"seed": 1}}))
    else:
        lost = dataclasses.replace(schema.load(b / "modular-1"), status="failed", reason="a fire")
        write_run(b / "modular-1", lost, pictures=False)
    words = ["--metrics", "caption_gap"]
    assert cli.main(["compare", str(a), str(b), *words]) == 1
    assert cli.main(["compare", str(a / "modular"), str(b / "modular"), *words]) == 1
    assert cli.main(["compare", str(a / "modular"), str(a / "modular"), *words]) == 0


def test_a_run_that_b_began_and_a_has_done_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = (four(tmp_path / side, seeds=2) for side in "ab")
    (b / "modular-1" / "record.json").unlink()
    words = ["compare", str(a), str(b), "--metrics", "caption_gap"]
    (b / "modular-1" / "request.json").write_text(json.dumps({"approach": "modular", "config": {"seed": 1}}))
    assert cli.main(words) == 1
    assert "B did not come to an end, as A did: modular, seed 1." in capsys.readouterr().out
    (b / "modular-1" / "request.json").write_text(json.dumps({"approach": "modular", "config": {"seed": 7}}))
    assert cli.main(words) == 0


def test_contenders_of_one_approach_that_differ_in_the_config_find_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for side, worse in (("a", 0.0), ("b", 0.5)):
        for amount in (100, 400):
            metrics = {"x": mean_at(1.0 - worse * (amount == 400), f"x{side}{amount}", better="higher")}
            own = record_of("dual_tower", metrics=metrics, key=f"{side}{amount}" * 2)
            own = dataclasses.replace(own, config={**own.config, "train": {"amount": amount}})
            write_run(tmp_path / side / str(amount), own, pictures=False)
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["worse"] == ["x"] and told["alone"] == []
    (line,) = [line for line in told["lines"] if line["word"] == "worse"]
    assert line["pair"] == "dual_tower (amount 400)"


def test_samples_stand_beside_their_scores(tmp_path: Path):
    out = four(tmp_path / "runs", seeds=2)
    kept = record_of("modular", seed=1)
    some = [place for place, sample in enumerate(kept.samples) if sample.caption is not None]
    f1 = mean_estimate([place / 100 for place in range(len(some))], unit="share", better="higher")
    other = mean_estimate([0.5 + 0.01 * place for place in range(len(kept.samples))], better="lower")
    metrics = {**kept.metrics, "caption_attribute_f1": f1, "validation_loss": other}
    write_run(out / "modular-1", record_of("modular", seed=1, metrics=metrics))
    assert cli.main(["report", str(out)]) == 0
    rows = list(csv.DictReader((out / "samples.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8 * len(kept.samples) and "validation_loss" not in rows[0]
    own = [row for row in rows if row["contender"] == "modular" and row["seed"] == "1"]
    for place, (row, sample) in enumerate(zip(own, kept.samples, strict=True)):
        assert (row["key"], row["drawn"], row["caption"]) == (sample.key, sample.drawn or "", sample.caption or "")
        assert float(row["scene_accuracy"]) == kept.metrics["scene_accuracy"].details["per_item"][place]
        assert float(row["scene_accuracy_0_redraws"]) == 0
        assert row["caption_attribute_f1"] == (str(some.index(place) / 100) if place in some else "")
    assert all(not row["scene_accuracy_0_redraws"] for row in rows if row["contender"] != "modular")
    # Some pictures could not be scored, and more were described than drawn.
    scored = mean_estimate([1.0, 0.0], unit="share", better="higher", details={"looked_at": [0, 2]})
    drawn = mean_estimate([0.25, 0.5, 0.75], unit="share", better="higher")
    changed = record_of("modular", seed=1, metrics={"clip_score": scored, "scene_accuracy": drawn})
    write_run(out / "modular-1", changed)
    assert cli.main(["report", str(out)]) == 0
    rows = list(csv.DictReader((out / "samples.csv").read_text(encoding="utf-8").splitlines()))
    own = [row for row in rows if row["contender"] == "modular" and row["seed"] == "1"]
    assert [row["clip_score"] for row in own[:4]] == ["1.0", "", "0.0", ""]
    assert [row["scene_accuracy"] for row in own[:4]] == ["0.25", "0.5", "0.75", ""]
