"""The doctor reports what is there, and gives a way out for each thing that is not."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from approaches.shared import sources as model_sources
from bench import cli, doctor
from bench.doctor import Finding, examine, machine, metrics, packages, read_constraints, weights


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped weights with one model in it, whose card is true."""
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(model_sources, "WEIGHTS", tmp_path)
    folder = tmp_path / "vae-tiny"
    folder.mkdir()
    save_file({"a": torch.zeros(3)}, str(folder / "model.safetensors"))
    have = model_sources.check_folder(model_sources.Source(text="x", path=folder))
    (folder / "card.json").write_text(json.dumps({"weights": have}))
    return folder


def named(findings: Any, name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_its_json_has_one_schema_and_nothing_beside_it(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert list(sections) == sorted(["machine", "packages", "kernels", "weights", "sources", "metrics"])
    fields = {field.name for field in dataclasses.fields(Finding)}
    for findings in sections.values():
        assert findings
        for finding in findings:
            assert set(finding) == fields
            assert finding["state"] in ("ok", "missing", "differs", "not tried")
            assert finding["found"]


def test_it_prints_every_finding_and_each_way_out_once(capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    findings = [
        Finding(name="one", state="missing", found="not there", advice="pip install one"),
        Finding(name="two", state="ok", found="there"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *, online: {"things": findings})
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "  one  missing  not there\n" in out
    assert out.count("pip install one") == 1


def test_shipped_weights_are_held_to_their_cards(shipped: Path):
    assert named(weights(), "shipped:vae-tiny").state == "ok"
    assert named(weights(), "shipped:lm-tiny").advice.endswith("--out approaches/shared/weights --only lm")
    card = shipped / "card.json"
    card.write_text('{"weights": "0"}')
    assert named(weights(), "shipped:vae-tiny").state == "differs"
    card.write_text("{}")
    assert "names none" in named(weights(), "shipped:vae-tiny").found
    file = shipped / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    found = named(weights(), "shipped:vae-tiny")
    assert found.state == "missing"
    assert str(file) in found.found
    assert found.advice


def test_metrics_follow_the_weights():
    def possible(found: set[str]) -> set[str]:
        return {finding.name for finding in metrics(found) if finding.state == "ok"}

    every = {need for groups in doctor.NEEDS.values() for group in groups for need in group}
    assert possible(set()) == set()
    assert possible(every) == set(doctor.NEEDS)
    assert possible({"inception"}) == {"fid"}
    assert possible({"package:smollm2"}) == {"perplexity_retention"}
    assert possible({"package:smollm2", "shipped:vae-tiny"}) == {"perplexity_retention", "validation_loss"}


def test_inceptions_weights_are_those_that_fid_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def told() -> Finding:
        return next(finding for finding in weights() if finding.name == "inception")

    monkeypatch.setenv("BENCH_INCEPTION", str(tmp_path / "none.pth"))
    assert told().state == "missing" and "no such file" in told().found
    own = tmp_path / "own.pth"
    own.write_bytes(b"nine byte")
    monkeypatch.setenv("BENCH_INCEPTION", str(own))
    assert told().state == "differs" and "not the official ones" in told().found
    monkeypatch.setattr("bench.doctor.hash_file", lambda path: "6726825d0000")
    assert told() == Finding(name="inception", state="ok", found=str(own))


def test_what_metrics_need_is_what_is_looked_for():
    looked_for = {finding.name for finding in weights()}
    assert {need for groups in doctor.NEEDS.values() for group in groups for need in group} <= looked_for


def test_packages_are_compared_with_the_tested_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "constraints.txt").write_text(
        "# tested\nTorch==1.0\ntorch_fidelity==2.0 ; x\nliger.kernel==3\nnumpy>=1\n"
    )
    assert read_constraints(tmp_path / "constraints.txt") == {
        "torch": "1.0", "torch-fidelity": "2.0", "liger-kernel": "3",
    }  # fmt: skip
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    have = {"torch": "1.0+cpu", "torch-fidelity": "2.1", "numpy": "9"}
    monkeypatch.setattr(doctor, "versions", lambda names: have)
    found = {finding.name: finding for finding in packages()}
    assert {name: finding.state for name, finding in found.items()} == {
        "torch": "ok", "torch-fidelity": "differs", "liger-kernel": "missing", "numpy": "differs",
    }  # fmt: skip
    assert found["liger-kernel"].advice == "pip install liger-kernel==3"
    assert read_constraints(tmp_path / "absent.txt") == {}


def test_a_section_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    sections = examine()
    broken = named(sections["machine"], "the rest")
    assert broken.state == "missing"
    assert broken.advice == "pip install torch"
    assert named(sections["machine"], "Python").state == "ok"
    assert sections["packages"]
    assert sections["metrics"]


def test_the_hub_is_tried_only_when_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "hub", lambda: pytest.fail("asked the hub"))
    assert named(doctor.sources(online=False), "hub").state == "not tried"


def test_the_hub_is_tried_when_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    answer = doctor.Finding(name="hub", state="ok", found="it answers")
    monkeypatch.setattr(doctor, "hub", lambda: answer)
    assert cli.main(["doctor", "--online", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row for rows in told.values() for row in rows if row["name"] == "hub"] == [asdict(answer)]


def test_an_unreachable_hub_is_a_finding():
    # The tests' environment is offline, so the client refuses at once.
    found = doctor.hub()
    assert found.state == "missing"
    assert found.advice


def test_a_cache_that_is_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        monkeypatch.setenv("BENCH_CACHE", str(place))
        found = named(machine(), "cache")
        assert found.state == "missing" and found.found.endswith(f"and {tmp_path / 'file'} is no folder")
        assert found.advice == "export BENCH_CACHE=FOLDER"


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    found = named(machine(), "cache")
    assert found.state == "missing"
    assert "BENCH_CACHE" in found.advice
