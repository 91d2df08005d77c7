"""The GPU script goes through all of its code on the CPU, at a tiny shape."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from approaches.registry import APPROACHES
from bench.environment import ROOT
from tests.gpu import measure
from tests.gpu.rival import TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_dry_run_measures_everything(tmp_path: Path) -> None:
    # in a process of its own: what other tests have traced stays with the compiler
    words = [sys.executable, "-m", "tests.gpu.measure", "--dry-run", "--to", str(tmp_path / "dry.json")]
    subprocess.run(words, cwd=ROOT, check=True)
    record = json.loads((tmp_path / "dry.json").read_text())
    assert record["dry_run"] and not record["failed"]
    found = record["found"]
    names = {kind for name in APPROACHES for kind in (f"parity/{name}", f"tiny/{name}")}
    assert found.keys() == {"parity/kernels", "tiny/rival", *names}
    assert found["parity/kernels"]["passed"] > 0
    for name in APPROACHES:
        assert found[f"parity/{name}"]["kernels"] < 1e-4
        told = found[f"tiny/{name}"]
        assert 0 < told["plain"]["mfu"]["value"] <= 1.2 and told["plain"]["peak_memory"]["value"] > 0
        assert told["sampling"]["seconds_per_image"] > 0
    rival = found["tiny/rival"]
    assert abs(rival["theirs"]["parameters"] / rival["ours"]["parameters"] - 1) <= TOLERANCE
    assert rival["ratio_ours"] == pytest.approx(
        rival["ours"]["steps_per_second"]["value"] / rival["theirs"]["steps_per_second"]["value"]
    )


def test_without_a_device_it_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure.main([]) == 2
    assert "no CUDA device here: --dry-run" in capsys.readouterr().err


def test_a_measurement_that_fails_is_told_and_takes_no_other_down(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    session = measure.Session(torch.device("cpu"), path, dry=True, seconds=math.inf, limit=0)
    session.take("one", lambda: 1 // 0)
    session.take("two", lambda: {"value": 2})
    assert session.failed == ["one"] and session.found["two"]["value"] == 2
    assert "ZeroDivisionError" in session.found["one"]["failed"]
    session.end = 0.0
    session.take("late", lambda: {"value": 3})
    record = json.loads(path.read_text())
    assert record["failed"] == ["one", "late"] and "no time was left" in record["found"]["late"]["failed"]
