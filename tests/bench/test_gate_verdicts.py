"""What the gate makes of numbers: medians of pairs, exact counts, intervals, refusals, and names not seen."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from approaches.registry import APPROACHES
from bench.cli import main
from bench.console import Console
from bench.errors import UserError
from bench.gates import baseline as stored
from bench.gates import benchmarks, gate, judge, output, speed, thresholds
from bench.gates.arguments import GateArguments
from bench.gates.baseline import Baseline
from bench.gates.findings import Finding, exit_code, verdict, wanted
from bench.gates.pairs import BaseError, Compared
from bench.gates.workers import WorkerError

LIMITS = thresholds.load()
HERE = "some processor, torch 2.13.0, 1 thread(s)"


def baseline() -> Baseline:
    return Baseline(
        threads=1,
        torch="2.13.0",
        python=platform.python_version(),
        names={
            "speed": ["step/a", "step/b"],
            "counted": ["parameters/a", "memory/a"],
            "quality": ["golden/a", "retention/a", "smoke/a"],
        },
        counted={"parameters/a": {"total": 10, "trainable": 4}, "memory/a": {"peak_bytes": 100}},
        smoke={"smoke/a": {"validation_loss": {"value": 1.0, "low": 0.98, "high": 1.02}}},
        golden={HERE: {"golden/a": {"loss": [3.0, 2.0, 1.0], "caption": [1.0, 1.0, 1.0]}}},
    )


def counts() -> dict[str, dict[str, Any]]:
    return {"parameters/a": {"total": 10, "trainable": 4}, "memory/a": {"peak_bytes": 100}}


def values() -> dict[str, dict[str, Any]]:
    return {
        "golden/a": {"loss": [3.0, 2.0, 1.0], "caption": [1.0, 1.0, 1.0]},
        "retention/a": {"perplexity_retention": 1.0, "largest_difference": 0.0},
        "smoke/a": {"validation_loss": 1.01, "caption_loss": None, "perplexity": None},
    }


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


# ------------------------------------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (["pass"], 0),
        (["pass", "not judged"], 0),
        (["not judged"], 2),
        ([], 2),
        (["pass", "refused"], 2),
        (["pass", "refused", "regression"], 1),
        (["pass", "missing"], 1),
    ],
)
def test_exit_codes(found: list[Any], code: int) -> None:
    findings = [Finding(kind="speed", name=str(i), status=status, said="") for i, status in enumerate(found)]
    assert exit_code(findings) == code
    assert verdict(findings).startswith(("no regression", "regression", "can't judge")[(0, 1, 2).index(code)])


def test_groups_and_whole_names() -> None:
    assert wanted("step/a", ()) and wanted("step/a", ("step",)) and wanted("step/a", ("step/a",))
    assert not wanted("step/a", ("step/b",)) and not wanted("steps/a", ("step",))


# ----------------------------------------------------------------------------------------------------- pairs


def compared(median: float, spread: float, pairs: int = 15, seed: int = 0) -> Compared:
    noise = np.random.default_rng(seed).normal(size=pairs)
    return Compared(ratios=tuple(median * np.exp(spread * (noise - np.median(noise)))), seconds=0.1)


def test_a_verdict_needs_both_the_median_and_its_interval() -> None:
    assert compared(1.2, 0.03).slower(1.1)
    assert not compared(1.05, 0.001).slower(1.1)  # certain, and small
    assert not compared(1.2, 1.5).slower(1.1)  # large, and anything but certain
    assert Compared(ratios=(2.0,) * 5, seconds=1.0).interval == (-np.inf, np.inf)


def test_what_is_measured_again_and_what_once_more() -> None:
    assert compared(1.06, 0.001).suspicious(1.1) and not compared(1.04, 0.001).suspicious(1.1)
    assert compared(1.2, 1.5).suspicious(1.1)  # wide: it proves nothing, and rules nothing out
    assert compared(1.09, 0.05).undecided(1.1) and compared(1.12, 0.05).undecided(1.1)
    assert not compared(1.2, 0.01).undecided(1.1) and not compared(1.0, 0.01).undecided(1.1)
    both = compared(1.0, 0.01).with_more(compared(1.2, 0.01, pairs=31))
    assert len(both.ratios) == 46 and both.slower(1.1) and both.seconds == pytest.approx(0.1)


def test_noise_alone_is_hardly_suspected_and_a_fifth_is_nearly_always() -> None:
    """Ratios whose logarithm strays by 8%, which is worse than what the docs report of a busy machine."""
    same = [compared_by_chance(1.0, seed).slower(LIMITS.limit) for seed in range(500)]
    slow = [compared_by_chance(1.2, seed).slower(LIMITS.limit) for seed in range(500)]
    assert sum(same) <= 5 and sum(slow) >= 495


def compared_by_chance(middle: float, seed: int) -> Compared:
    noise = np.random.default_rng(seed).normal(size=LIMITS.pairs)
    return Compared(ratios=tuple(middle * np.exp(0.08 * noise)), seconds=0.1)


def test_a_suspicion_is_judged_by_fresh_pairs() -> None:
    slow, well = compared(1.2, 0.01), compared(1.0, 0.01)
    assert speed.finding("s/a", well, None, LIMITS).status == "pass"
    assert speed.finding("s/a", slow, well, LIMITS).status == "pass"
    assert speed.finding("s/a", slow, slow, LIMITS).status == "regression"
    noisy = compared(1.2, 1.5)
    assert speed.finding("s/a", slow, noisy, LIMITS).status == "refused"
    assert "too noisy to be told from 1" in speed.finding("s/a", slow, noisy, LIMITS).said
    assert speed.finding("s/a", slow, compared(1.05, 0.5), LIMITS).status == "pass"  # noisy, and not above the limit
    assert speed.finding("s/a", slow, WorkerError("gone"), LIMITS).status == "missing"
    assert speed.finding("s/a", WorkerError("gone"), None, LIMITS).status == "missing"
    assert speed.finding("s/a", BaseError("no such thing"), None, LIMITS).status == "not judged"


# --------------------------------------------------------------------------------------------------- counted


def test_counts_are_exact() -> None:
    assert set(statuses(judge.counted(counts(), baseline(), "2.13.0", ())).values()) == {"pass"}
    more = counts()
    more["parameters/a"]["total"] += 1
    found = judge.counted(more, baseline(), "2.13.0", ())
    assert statuses(found) == {"parameters/a": "regression", "memory/a": "pass"}
    assert "total was 10, is 11 (+1)" in found[0].said
    fewer = counts()
    fewer["memory/a"]["peak_bytes"] -= 1  # a gain is a change too, to be explained
    assert statuses(judge.counted(fewer, baseline(), "2.13.0", ()))["memory/a"] == "regression"


def test_a_quantity_that_comes_or_goes_is_a_change() -> None:
    for change in ({"total": 10}, {"total": 10, "trainable": 4, "active": 1}):
        found = judge.counted({**counts(), "parameters/a": change}, baseline(), "2.13.0", ())
        assert statuses(found)["parameters/a"] == "regression"


def test_another_torch_decides_memory_only() -> None:
    found = judge.counted(counts(), baseline(), "2.14.1", ())
    assert statuses(found) == {"parameters/a": "pass", "memory/a": "refused"}
    assert "2.13.0" in found[-1].said and "2.14.1" in found[-1].said
    assert set(statuses(judge.counted(counts(), baseline(), "2.13.9", ())).values()) == {"pass"}


def test_another_python_decides_graphs_only() -> None:
    before = baseline()
    before.python = "3.1.0"
    before.names["counted"].append("graphs/a")
    before.counted["graphs/a"] = {"breaks": 0}
    found = judge.counted({**counts(), "graphs/a": {"breaks": 1}}, before, "2.13.0", ())
    assert statuses(found) == {"parameters/a": "pass", "memory/a": "pass", "graphs/a": "refused"}
    found = judge.counted({**counts(), "graphs/a": {"breaks": 1}}, before, "2.13.0", (), skip=True)
    assert statuses(found)["graphs/a"] == "not judged" and exit_code(found) == 0


def test_what_can_not_be_counted_is_missing() -> None:
    found = judge.counted({**counts(), "memory/a": {"error": "RuntimeError: no"}}, baseline(), "2.13.0", ())
    assert statuses(found)["memory/a"] == "missing" and exit_code(found) == 1


# --------------------------------------------------------------------------------------------------- unseen


def test_a_renamed_name_is_missing_and_new() -> None:
    renamed = {"parameters/b": counts()["parameters/a"], "memory/a": counts()["memory/a"]}
    found = judge.counted(renamed, baseline(), "2.13.0", ())
    assert statuses(found) == {"parameters/a": "missing", "parameters/b": "refused", "memory/a": "pass"}
    assert exit_code(found) == 1


def test_an_installed_package_s_approach_need_not_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "package_of", lambda name: {"plain-way": "0.1"} if name == "plain" else {})
    names = ["flops/ours", "flops/plain", "flops/new"]
    assert judge.of_this_checkout(names) == ["flops/ours", "flops/new"]
    found = judge.unseen("counted", ["flops/ours"], names, ())
    assert [(finding.name, finding.status) for finding in found] == [
        ("flops/plain", "not judged"),
        ("flops/new", "refused"),
    ]
    assert found[0].said == "of the package plain-way: this checkout stores nothing to compare it with"


def test_a_name_outside_the_groups_is_not_asked_for() -> None:
    only = {"parameters/a": counts()["parameters/a"]}
    assert statuses(judge.counted(only, baseline(), "2.13.0", ("parameters",))) == {"parameters/a": "pass"}


# --------------------------------------------------------------------------------------------------- quality


def judged(found: dict[str, Any], machine: str = HERE, **words: Any) -> dict[str, str]:
    return statuses(judge.quality(found, baseline(), LIMITS, machine, (), **words))


def test_all_is_well() -> None:
    assert set(judged(values()).values()) == {"pass"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retention/a", {"perplexity_retention": 1.0, "largest_difference": 1e-5}),
        ("retention/a", {"perplexity_retention": 1.0000001, "largest_difference": 0.0}),
        ("golden/a", {"loss": [3.0, 2.0, 1.0000001], "caption": [1.0, 1.0, 1.0]}),
        ("golden/a", {"loss": [3.0, 2.0, 1.0]}),
        ("golden/a", {"loss": [3.0, 2.0], "caption": [1.0, 1.0]}),
        ("smoke/a", {"validation_loss": 1.03}),
        ("smoke/a", {"validation_loss": None}),
        ("smoke/a", {"validation_loss": "nan"}),
        ("smoke/a", {"validation_loss": 1.0, "caption_loss": 2.0}),
    ],
)
def test_each_fault_of_quality_is_a_regression(name: str, value: dict[str, Any]) -> None:
    found = judged({**values(), name: value})
    assert found.pop(name) == "regression" and set(found.values()) == {"pass"}


def test_a_broken_promise_is_missing() -> None:
    found = values()
    del found["retention/a"]  # its language model is not frozen any more
    assert judged(found)["retention/a"] == "missing"


def test_another_kind_of_machine_is_refused_or_judged_by_the_base() -> None:
    elsewhere = "another processor, torch 2.13.0, 1 thread(s)"
    assert judged(values(), elsewhere)["golden/a"] == "refused"
    assert judged(values(), elsewhere, skip=True)["golden/a"] == "not judged"
    said = next(f.said for f in judge.quality(values(), baseline(), LIMITS, elsewhere, ()) if f.name == "golden/a")
    assert HERE in said and elsewhere in said
    partly = baseline()
    partly.golden[elsewhere] = {"golden/b": {"loss": [1.0]}}  # golden/a was changed on a machine of the first kind
    told = next(f for f in judge.quality(values(), partly, LIMITS, elsewhere, (), skip=True) if f.name == "golden/a")
    assert told.status == "not judged" and told.said.startswith(f"stored for {HERE}; this is {elsewhere}")
    golden = {"golden/a": values()["golden/a"]}
    assert judged(values(), elsewhere, base=golden)["golden/a"] == "pass"
    other = {"golden/a": {"loss": [4.0, 2.0, 1.0], "caption": [1.0, 1.0, 1.0]}}
    assert judged(values(), elsewhere, base=other)["golden/a"] == "regression"
    assert judged(values(), elsewhere, base=other, announced=["golden/a"])["golden/a"] == "pass"


def test_a_logit_that_is_no_number_is_a_regression() -> None:
    found = values()
    found["retention/a"] = {"perplexity_retention": "nan", "largest_difference": "nan"}
    (told,) = [f for f in judge.quality(found, baseline(), LIMITS, HERE, ()) if f.name == "retention/a"]
    assert told.status == "regression" and "nan" in told.said


def gated(monkeypatch: pytest.MonkeyPatch, *groups: str, base: Baseline, quality: Any, kind: str = HERE) -> Any:
    """What the gate says of groups when this is measured; and of which commit the base's losses were asked for."""
    asked: list[str] = []

    def golden_of(commit: str, *_: Any) -> tuple[Any, list[str]]:
        asked.append(commit)
        return {"golden/a": values()["golden/a"]}, []

    about = {"torch": base.torch, "machine": kind}
    monkeypatch.setattr(gate, "measured", lambda *_: ({}, quality, about))
    monkeypatch.setattr(gate, "_golden_of", golden_of)
    arguments = GateArguments(only=("counted", "quality"), unknown_machine="skip")
    found = gate._stored(arguments, groups, base, LIMITS, "abc", Console(interval=1e9))
    return {finding.name: finding.status for finding in found}, asked


def test_a_name_that_is_lost_fails_in_whatever_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is all that was asked for of its kind, as when an approach is frozen no more."""
    for groups in (("retention/a",), ("parameters", "retention/a")):
        found, _ = gated(monkeypatch, *groups, base=baseline(), quality={})
        assert found["retention/a"] == "missing"


def test_the_base_is_measured_where_some_losses_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    partly, kind = baseline(), "another kind"
    partly.golden[kind] = {"golden/b": {"loss": [1.0]}}
    now = {"golden/a": {"loss": [9.0, 2.0, 1.0], "caption": [1.0, 1.0, 1.0]}}
    found, asked = gated(monkeypatch, "golden/a", base=partly, quality=now, kind=kind)
    assert asked == ["abc"] and found["golden/a"] == "regression"
    assert gated(monkeypatch, "golden/a", base=partly, quality=now)[1] == []  # stored for this kind


# -------------------------------------------------------------------------------------------------- baseline


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    stored.save(baseline(), path)
    assert stored.load(path) == baseline()


@pytest.mark.parametrize("text", ["{}", '{"schema": 0}', '{"schema": 1, "more": 1}', "[]", "nonsense"])
def test_a_baseline_of_another_schema_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        stored.load(path)


def test_changes_are_told_and_kept_with_the_reason() -> None:
    new = baseline()
    new.counted["parameters/a"]["total"] = 11
    new.names["speed"].append("step/c")
    lines = stored.changes(baseline(), new)
    assert lines == ["counted parameters/a total: 10 -> 11", "names speed step/c: absent -> true"]
    kept = stored.renewed(baseline(), new, "a layer was added")
    assert kept.history[-1]["reason"] == "a layer was added" and kept.history[-1]["changes"] == lines
    assert stored.changes(new, kept) == []


def test_other_machines_losses_are_kept_only_where_these_are_the_same() -> None:
    old, new = baseline(), baseline()
    old.golden["elsewhere"] = {"golden/a": {"loss": [3.1]}, "golden/b": {"loss": [1.0]}}
    old.golden[HERE]["golden/b"] = {"loss": [5.0]}
    new.golden[HERE]["golden/b"] = {"loss": [6.0]}
    kept = stored.renewed(old, new, "b draws otherwise now")
    assert kept.golden["elsewhere"] == {"golden/a": {"loss": [3.1]}}
    assert stored.announced(old, kept, "golden/b") and not stored.announced(old, kept, "golden/a")


def test_a_new_machines_losses_are_told_and_no_other_machine_is_said_to_go() -> None:
    old, new = baseline(), baseline()
    new.golden = {"elsewhere": {"golden/a": {"loss": [3.1]}}}
    kept = stored.renewed(old, new, "one more kind of machine")
    assert kept.history[-1]["changes"] == ["golden elsewhere golden/a loss: absent -> [3.1]"]
    assert kept.golden[HERE] == old.golden[HERE]
    assert not stored.announced(old, kept, "golden/a")  # as before where both have it, however many have it


def test_the_shipped_baseline_and_thresholds_are_whole() -> None:
    shipped = stored.load()
    assert shipped.threads == LIMITS.threads and shipped.history[-1]["reason"]
    assert set(shipped.counted) == set(shipped.names["counted"])
    golden = {name for name in shipped.names["quality"] if name.startswith("golden/")}
    # a name that changed on one kind of machine is dropped for the others: one kind has all of them, none has more
    assert golden and golden in [set(named) for named in shipped.golden.values()]
    assert all(set(named) <= golden for named in shipped.golden.values())


# ------------------------------------------------------------------------------------------------ thresholds


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('reason = "As for validation_loss, and on few tokens."', 'reason = ""'),
        ('reason = "As for validation_loss, and on few tokens."', ""),
        ("[speed.limit]", "[speed.limits]"),
        ("value = 15", "value = 15.5"),
        ("value = 15", "value = 5"),
        ("value = 1.10", "value = 0.9"),
        ("value = 1.10", 'value = "much"'),
        ("schema = 1", "schema = 2"),
        ("schema = 1", "schema ="),
    ],
)
def test_a_threshold_without_reason_or_sense_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = thresholds.FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "thresholds.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError):
        thresholds.load(path)


# ---------------------------------------------------------------------------------------------------- output


def test_junit_and_markdown_tell_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding(kind="speed", name="step/a", status="regression", said="slow", ratio=(1.2, 1.15, 1.25), seconds=0.5),
        Finding(kind="speed", name="step/b", status="not judged", said="no base"),
        Finding(kind="counted", name="parameters/a", status="refused", said="a | b"),
        Finding(kind="quality", name="golden/a", status="pass", said="fine"),
        Finding(kind="quality", name="golden/b", status="missing", said="not seen"),
    ]
    output.write_junit(findings, tmp_path / "gate.xml")
    root = ElementTree.parse(tmp_path / "gate.xml").getroot()
    suites = {suite.get("name"): suite for suite in root}
    assert {name: [s.get(k) for k in ("tests", "failures", "errors", "skipped")] for name, s in suites.items()} == {
        "speed": ["2", "1", "0", "1"],
        "counted": ["1", "0", "1", "0"],
        "quality": ["2", "1", "0", "0"],
    }
    failure = suites["speed"][0][0]
    assert failure.tag == "failure" and "1.200 [1.150, 1.250]" in (failure.get("message") or "")
    output.write_markdown(findings, tmp_path / "gate.md")
    text = (tmp_path / "gate.md").read_text(encoding="utf-8")
    assert text.startswith("**Gate: regression") and "a \\| b" in text and text.count("step/a") == 2
    output.show(findings, Console())
    said = capsys.readouterr().out
    assert all(finding.name in said for finding in findings)
    assert json.loads(json.dumps(output.plain(findings)))["findings"][0]["name"] == "step/a"


# ---------------------------------------------------------------------------------------- pytest-benchmark files


def written(folder: Path, names: list[str], **changes: Any) -> Path:
    item = {"stats": {"rounds": 5}, "extra_info": {"threads": 1}, **changes}
    path = folder / "benchmarks.json"
    path.write_text(json.dumps({"benchmarks": [{"param": name, **item} for name in names]}), encoding="utf-8")
    return path


def test_a_file_of_benchmarks_must_hold_them_all(tmp_path: Path) -> None:
    def found(*words: Any, **changes: Any) -> dict[str, str]:
        return statuses(benchmarks.judge(written(tmp_path, *words, **changes), baseline(), LIMITS))

    assert found(["step/a", "step/b"]) == {"step/a": "pass", "step/b": "pass"}
    assert found(["step/a"]) == {"step/a": "pass", "step/b": "missing"}
    assert found(["step/a", "step/B"]) == {"step/a": "pass", "step/b": "missing", "step/B": "refused"}
    assert set(found([]).values()) == {"missing"}
    assert set(found(["step/a", "step/b"], extra_info={"threads": 2}).values()) == {"refused"}
    assert set(found(["step/a", "step/b"], stats={"rounds": 0}).values()) == {"missing"}


def test_an_empty_file_holds_none_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    path.write_text("", encoding="utf-8")
    assert set(statuses(benchmarks.judge(path, baseline(), LIMITS)).values()) == {"missing"}
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="no file of pytest"):
        benchmarks.judge(path, baseline(), LIMITS)


# ---------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--reason", "because of that"], "expected --update-baseline"),
        (["--update-baseline", "--against", "HEAD"], "expected only --reason"),
        (["--only", "counted", "--against", "HEAD"], "--only leaves out"),
        (["--only", "sped"], "did you mean 'speed'?"),
        (["--group", "parameter"], "did you mean 'parameters'?"),
        (["--against", "no-such-branch"], "no commit of this checkout"),
        (["--against=--all"], "expected a commit"),
        (["--benchmarks", "absent.json"], "no such file"),
        (["--benchmarks", "docs/pictures/tiny-drawn.png"], "is not readable as JSON"),
        (["--markdown", "/"], "is a folder"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1


@pytest.mark.parametrize("retention", [1.0, 0.9])
def test_the_baseline_is_renewed_with_a_reason_and_with_no_text_lost(
    retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = sorted(APPROACHES)[0]
    counted = {f"parameters/{name}": {"all": 7}}
    quality = {f"retention/{name}": {"perplexity_retention": retention, "largest_difference": 1 - retention}}
    kept: list[Any] = []

    class Named:
        """A worker of this checkout that says what it times."""

        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Named:
            return self

        def __exit__(self, *_: Any) -> None: ...
        def hello(self) -> None: ...
        def call(self, what: str) -> Any:
            assert what == "names"
            return {"names": []}

    monkeypatch.setattr(gate, "measured", lambda *_: (counted, quality, {"torch": "9", "machine": "m"}))
    monkeypatch.setattr(gate, "Worker", Named)
    monkeypatch.setattr(stored, "save", kept.append)
    quiet = Console(interval=1e9)
    with pytest.raises(UserError, match="--reason does not say why"):
        gate.update("", LIMITS, quiet)
    if retention < 1:
        with pytest.raises(UserError, match=f"can't be renewed: retention/{name}"):
            gate.update("because of a test", LIMITS, quiet)
        assert not kept
        return
    assert gate.update("because of a test", LIMITS, quiet) == 0
    assert kept[0].counted[f"parameters/{name}"] == {"all": 7} and "because of a test" in str(kept[0])


def test_another_number_of_threads_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(thresholds, "load", lambda: dataclasses.replace(LIMITS, threads=2))
    assert main(["gate"]) == 2
    assert "not compared" in capsys.readouterr().err


def test_a_file_of_benchmarks_is_judged_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = stored.load().names["speed"]
    assert main(["gate", "--benchmarks", str(written(tmp_path, names))]) == 0
    assert main(["gate", "--benchmarks", str(written(tmp_path, names[1:])), "--junit", str(tmp_path / "j.xml")]) == 1
    assert names[0] in capsys.readouterr().out
    assert "expected, and not seen" in (tmp_path / "j.xml").read_text(encoding="utf-8")


def test_intervals_hold_their_value_whatever_its_sign() -> None:
    made = gate.intervals({"validation_loss": -2.0, "caption_loss": None, "perplexity": 3.0}, LIMITS)
    assert set(made) == {"validation_loss", "perplexity"}
    assert all(bounds["low"] < bounds["value"] < bounds["high"] for bounds in made.values())
