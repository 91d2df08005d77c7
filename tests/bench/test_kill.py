"""A run that is killed and started again ends as one that was not: the same weights, byte for byte, and the same record
but for its timings."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import runner, store
from bench.console import Console
from bench.files import hash_file
from bench.run_arguments import RunArguments
from bench.stages import CHECKPOINT
from reports import schema
from tests.bench.conftest import MicroRun
from tests.reports.records import settled

KILLS = int(os.environ.get("BENCH_TEST_KILLS", "3"))
MOMENTS = [*[CHECKPOINT] * (KILLS // 3), store.WEIGHTS, *[store.SAMPLES, schema.FILE] * KILLS][:KILLS]
"""Files that tell how far a run is; the record is written anew when a worker begins. A kill comes up to SPREAD seconds
after one appears, soon rather than late."""
SPREAD = 3.0


def killed(folder: Path, awaited: str, delay: float) -> str:
    """Start the run's worker, kill it `delay` seconds after it wrote a file (the record, where an earlier worker has
    left that file for good); what it said."""
    path = folder / (schema.FILE if awaited != CHECKPOINT and (folder / awaited).exists() else awaited)
    words = [sys.executable, "-m", "bench.worker", str(folder)]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    before = path.stat().st_mtime_ns if path.exists() else 0
    worker = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=surroundings, text=True
    )
    while worker.poll() is None and not (path.exists() and path.stat().st_mtime_ns > before):
        time.sleep(0.005)
    time.sleep(delay)
    worker.kill()
    said, _ = worker.communicate()
    assert worker.returncode in (-9, 0), said
    return str(said)


@pytest.mark.slow
def test_killed_at_any_moment_a_run_ends_as_one_that_was_not(
    tmp_path: Path, micro_run: MicroRun, monkeypatch: pytest.MonkeyPatch
):
    draw = random.Random(7)
    request = store.Request.read(micro_run.folder)
    folder = tmp_path / "runs" / request.name
    folder.mkdir(parents=True)
    request.write(folder)
    told = []
    for awaited in MOMENTS:
        told.append(killed(folder, awaited, SPREAD * draw.random() ** 3))
        state = store.read_state(folder)
        assert state is not None and state.state in ("killed", "done")
    # The same request again, whatever has become of the sources meanwhile.
    monkeypatch.setattr(runner, "plan", lambda *_: iter([request]))
    assert runner.main(RunArguments(out=tmp_path / "runs"), micro_run.config, Console(interval=1e9)) == 0
    assert hash_file(folder / store.WEIGHTS) == hash_file(micro_run.folder / store.WEIGHTS)
    assert settled(schema.load(folder)) == settled(schema.load(micro_run.folder))
    for name in sorted(path.name for path in (micro_run.folder / store.SAMPLES).iterdir()):
        assert hash_file(folder / store.SAMPLES / name) == hash_file(micro_run.folder / store.SAMPLES / name), name
    assert any("resumed at step" in words for words in told), told
    leftovers = [path.name for path in folder.rglob("*") if path.suffix == ".part"]
    assert leftovers == [] and not (folder / CHECKPOINT).exists()


@pytest.mark.slow
def test_a_run_whose_weights_were_lost_or_swapped_says_so(tmp_path: Path, micro_run: MicroRun):
    from bench.errors import UserError
    from bench.hands_on import load

    folder = tmp_path / micro_run.folder.name
    shutil.copytree(micro_run.folder, folder)
    whole = (folder / store.WEIGHTS).read_bytes()
    (folder / store.WEIGHTS).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="cut short"):
        load(folder)
    (folder / store.WEIGHTS).unlink()
    with pytest.raises(UserError, match="no weights at"):
        load(folder)
