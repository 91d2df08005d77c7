"""`array`: many runs as jobs of submitit's local executor; each resumable, each told for what it was. The worker acts
fates out (tests/bench/ways.py)."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench import array, array_arguments, cli, finding, reproduce, store, sweep
from bench.array_arguments import ArrayArguments
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.exits import FAILED
from bench.files import read_json
from bench.hardware import VISIBLE
from bench.reproduce_arguments import ReproduceArguments
from bench.sweep_arguments import SweepArguments
from reports import schema
from tests.bench import ways
from tests.bench.jobs import ActedJob, CountingJob, SeeingJob


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    ways.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(ways.ROOT))
    monkeypatch.setattr(array, "Job", ActedJob)
    monkeypatch.setattr(store, "source_hash", lambda *_: "sources")  # somebody may be editing them
    monkeypatch.setattr(array, "contents", lambda config, progress: {"data": "pictures", "text": "words"})
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    return ways.micro(tmp_path)


def asked(tmp_path: Path, config: Config, *approaches: str, **more: Any) -> int:
    arguments = ArrayArguments(approach=approaches, out=tmp_path / "runs", **more)
    return array.main(arguments, config, Console(as_json=arguments.json, interval=1e9))


def states(tmp_path: Path) -> dict[str, str]:
    return {f"{run.approach}/{run.key[:4]}": run.state.state for run in finding.runs(tmp_path / "runs") if run.state}


def test_jobs_do_the_runs_once_and_go_on_with_what_was_cut_off(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, config, "good", "killed", parallel=2, json=True) == 3
    told = json.loads(capsys.readouterr().out)
    assert [(run["approach"], run["seed"], run["state"]) for run in told] == [
        ("good", 0, "done"), ("killed", 0, "killed"),
    ]  # fmt: skip
    assert sorted(states(tmp_path).values()) == ["done", "killed"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob(f"good-*/{schema.FILE}")}
    monkeypatch.setenv("SPARED", "by whoever killed them")
    assert asked(tmp_path, config, "good", "killed") == 0
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert set(states(tmp_path).values()) == {"done"}
    assert "done already" in capsys.readouterr().out


def test_where_only_mistakes_stood_in_the_way_the_exit_code_says_so(tmp_path: Path, config: Config) -> None:
    assert asked(tmp_path, config, "good", "mistaken") == 2
    assert asked(tmp_path, config, "mistaken", "broken") == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_jobs_without_a_word_of_submitits(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    """As one in the background of a shell, too, where SIGINT is ignored."""

    def once_it_works(seconds: float) -> None:
        pause(seconds)
        if any((tmp_path / "runs").glob("slow-*/begun")):
            for keeper in psutil.Process().children() if heard else ():  # a terminal tells all of its group
                keeper.send_signal(signal.SIGINT)
            signal.raise_signal(number)

    pause = time.sleep
    heard = number == signal.SIGINT  # whatever this test was started by
    before = signal.signal(signal.SIGINT, signal.default_int_handler if heard else signal.SIG_IGN)
    monkeypatch.setattr(array, "time", SimpleNamespace(sleep=once_it_works))
    try:
        with pytest.raises(KeyboardInterrupt):
            asked(tmp_path, config, "slow")
    finally:
        signal.signal(signal.SIGINT, before)
    assert [state.partition(":")[0] for state in states(tmp_path).values()] == ["killed"]
    assert "Traceback" not in capfd.readouterr().err
    log = (array_arguments.jobs_folder(tmp_path / "runs") / array.KEEPERS).read_text()
    assert ("Traceback" in log) == heard  # what would have been told


def test_a_done_run_of_another_key_is_not_taken_by_the_folders_name(
    tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, config, "good") == 0
    capsys.readouterr()
    (folder,) = (tmp_path / "runs").glob("good-*")
    record = schema.load(folder)
    schema.save(replace(record, key=record.key[:8] + "0" * 8), folder)
    other = f"{folder} holds another run of the same name"
    with pytest.raises(UserError, match=f"^{other}"):
        asked(tmp_path, config, "good")
    before = folder.stat().st_mtime_ns, (folder / schema.FILE).read_bytes()
    assert asked(tmp_path, config, "killed", "good", json=True) == 3  # the other is done none the less
    told = capsys.readouterr()
    assert f"warning: {other}" in told.err
    assert [each["reason"].partition(":")[0] for each in json.loads(told.out)] == ["signal SIGKILL", other]
    assert (folder.stat().st_mtime_ns, (folder / schema.FILE).read_bytes()) == before


def test_a_done_run_whose_record_is_gone_is_ended_anew_and_holds_nobody_up(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, config, "good") == 0
    (record,) = (tmp_path / "runs").glob("good-*/record.json")
    record.unlink()
    monkeypatch.setenv("SPARED", "1")
    assert asked(tmp_path, config, "killed", "good") == 0
    assert "the run's last stage is done again" in capfd.readouterr().err
    assert set(states(tmp_path).values()) == {"done"} and record.exists()


def test_a_run_whose_machine_is_gone_is_asked_for_again_as_it_is_asked_for_now(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, config, "killed") == 3
    (folder,) = (tmp_path / "runs").glob("killed-*")
    ways.moved(folder)
    monkeypatch.setenv("SPARED", "by whoever killed it")
    present = replace(config, train=replace(config.train, checkpoint_seconds=7.0))
    with store.locked(folder):
        assert asked(tmp_path, present, "killed") == 3
        assert "running already" in capsys.readouterr().out
        (folder / store.STATUS).unlink()  # its worker has only just begun
        assert asked(tmp_path, present, "killed") == 3
        assert "is being worked on" in capsys.readouterr().out
    assert store.Request.read(folder).config == config
    ways.moved(folder)
    assert asked(tmp_path, present, "killed") == 0
    assert store.Request.read(folder).config == present


@pytest.mark.parametrize(
    ("here", "gpus", "seen"), [(None, 0, {"unset"}), ("", 0, {""}), ("3", 0, {"3"}), ("4,5,6,7", 2, {"4,5", "6,7"})]
)
def test_jobs_of_this_machine_see_its_gpus_or_their_own(
    here: str | None, gpus: int, seen: set[str], tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array, "Job", SeeingJob)
    if here is None:
        monkeypatch.delenv(VISIBLE, raising=False)
    else:
        monkeypatch.setenv(VISIBLE, here)
    asked(tmp_path, config, "good", "killed", "mistaken", parallel=2, gpus=gpus)
    told = [path.read_text().split("|") for path in (tmp_path / "runs").glob("*/seen")]
    assert len(told) == 3 and {after for _, after in told} == seen
    assert {before for before, _ in told} == {""}  # what submitit leaves them


@pytest.mark.parametrize(
    ("set_to", "words", "expected"),
    [
        (None, {"parallel": 2}, "3"),
        (None, {"parallel": 4}, "1"),
        (None, {"parallel": 9}, "1"),
        (None, {"parallel": 2, "cpus": 5}, "5"),
        ("4", {"parallel": 2}, "4"),
        ("4", {"parallel": 2, "cpus": 1}, "1"),
        ("many", {"parallel": 3}, "2"),
    ],
)
def test_jobs_share_the_cores_of_this_machine_unless_they_are_told(
    set_to: str | None, words: dict[str, Any], expected: str, tmp_path: Path, config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(array, "Job", CountingJob)
    monkeypatch.setattr(array_arguments, "usable_cores", lambda: 6)
    if set_to is None:
        monkeypatch.delenv(array.THREADS, raising=False)
    else:
        monkeypatch.setenv(array.THREADS, set_to)
    asked(tmp_path, config, "good", "killed", **words)
    assert [path.read_text() for path in (tmp_path / "runs").glob("*/threads")] == [expected] * 2


def test_the_runs_are_approach_by_seed_by_value(tmp_path: Path, config: Config) -> None:
    arguments = ArrayArguments(
        approach=("good", "slow"), seeds=2, field="settings.learning_rate", values=("1e-3", "2e-3", "4e-3")
    )
    found = list(array_arguments.points(arguments, config))
    named = [(p.config.seed, p.approach, p.settings.learning_rate) for p in found]
    assert named == [(s, a, v) for s in (0, 1) for a in ("good", "slow") for v in (1e-3, 2e-3, 4e-3)]
    plain = list(array_arguments.points(ArrayArguments(approach=("good",), seeds=3), config))
    assert [(p.config.seed, p.approach) for p in plain] == [(0, "good"), (1, "good"), (2, "good")]


def test_a_tables_runs_are_done_several_at_a_time_too(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"name": name, "approach": name, "settings": {"depth": depth}, "published": {"loss": float(depth)}}
        for name, depth in (("good", 1), ("killed", 2))
    ]
    measures = {"loss": {"better": "lower", "stands_in": ["validation_loss"]}}
    table = tmp_path / "mine.json"
    table.write_text(json.dumps({"name": "mine", "source": "a test", "measures": measures, "rows": rows}))
    asked = ReproduceArguments(table=str(table), out=tmp_path / "out", seeds=2, parallel=2)
    assert reproduce.main(asked, config, Console(interval=1e9)) == FAILED
    (file,) = (tmp_path / "out").glob("mine-*.json")
    found = read_json(file)
    states = {(row["name"], run["seed"]): run["state"] for row in found["rows"] for run in row["runs"]}
    assert states == {("good", 0): "done", ("good", 1): "done", ("killed", 0): "killed", ("killed", 1): "killed"}
    assert found["status"] == "failed" and "run 1 of" not in capsys.readouterr().out
    monkeypatch.setenv("SPARED", "by whoever killed them")
    assert reproduce.main(asked, config, Console(interval=1e9)) == 0
    assert read_json(file)["status"] == "done" and "done already" in capsys.readouterr().out


def test_a_sweeps_trials_are_done_several_at_a_time_too(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = SweepArguments(approach=("good",), values=("1e-3", "2e-3"), out=tmp_path / "out", parallel=2)
    assert sweep.main(asked, config, Console(interval=1e9)) == 0
    (file,) = (tmp_path / "out").glob("*.json")
    found = read_json(file)
    assert found["status"] == "done"
    assert [trial["value"] for trial in found["approaches"][0]["trials"]] == [1e-3, 2e-3]
    told = capsys.readouterr().out
    assert "begins; its output is in" in told and "trial 1 of" not in told


def test_a_job_that_is_moved_is_asked_for_again(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = array.Job(str(tmp_path))
    assert job.checkpoint().function == job
    given: list[Any] = []

    class Executor:
        """Takes what submitit would."""

        def submit_array(self, jobs: list[Any]) -> list[Any]:
            given.extend(jobs)
            return [type("Asked", (), {"job_id": place})() for place, _ in enumerate(jobs)]

    monkeypatch.setattr(array, "_executor", lambda arguments: Executor())
    requests: Any = [type("Request", (), {"name": name})() for name in ("a", "b")]
    array._queued(requests, ArrayArguments(out=tmp_path, executor="slurm"), Console(interval=1e9))
    # submitit asks what it was given, and where a job runs out of time that has to answer.
    assert [Path(each.folder).name for each in given] == ["a", "b"] and all(each.checkpoint() for each in given)


def test_an_array_of_slurm_asks_for_what_the_words_say(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With SLURM's commands put in place: the script that sbatch gets, and no second job for what is in the queue."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in (
        ("sbatch", 'for last; do :; done; cp "$last" "$SCRIPT"; echo "Submitted batch job 77"'),
        ("srun", "exit 0"),
        ("sacct", 'printf "JobID|State\\n77_0|PENDING\\n77_1|PENDING\\n"'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("SCRIPT", str(tmp_path / "script.sh"))
    words: dict[str, Any] = {
        "executor": "slurm", "seeds": 2, "parallel": 1, "gpus": 1, "minutes": 30, "partition": "p", "memory": 7
    }  # fmt: skip
    assert asked(tmp_path, config, "good", **words) == 0
    script = (tmp_path / "script.sh").read_text()
    for line in ("--array=0-1%1", "--mem=7GB", "--gpus-per-node=1", "--time=30", "--partition=p", "--cpus-per-task=2"):
        assert f"#SBATCH {line}" in script, script
    assert set(json.loads((tmp_path / "runs" / "jobs" / array.ASKED).read_text()).values()) == {"77_0", "77_1"}
    (tmp_path / "script.sh").unlink()
    waited = list[int]()
    jobs = [SimpleNamespace(job_id=f"78_{place}", wait=lambda place=place: waited.append(place)) for place in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(array, "_queued", lambda *_: jobs)
        for wait, expected in ((False, []), (True, [0, 1])):
            asked(tmp_path / f"wait-{wait}", config, "good", **{**words, "wait": wait})
            assert waited == expected
    (folder / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: q' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"SLURM refuses the jobs: .*invalid partition"):
        asked(tmp_path / "other", config, "good", **{**words, "partition": "q"})
    assert asked(tmp_path, config, "good", **words) == 0
    assert not (tmp_path / "script.sh").exists() and "in the queue as job 77_1, pending" in capsys.readouterr().out


def test_mistakes_are_answered_with_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv(VISIBLE, "0,1,2,3")
    for words, sentence in (
        (["--executor", "slurm"], "sbatch is not found on this machine: take --executor local"),
        (["--values", "1", "2"], "--values are of no field"),
        (["--field", "settings.learning_rat", "--values", "1", "2"], "did you mean 'settings.learning_rate'"),
        (["--field", "train.ema", "--values", "0.5"], "expected two or more, got 1"),
        (["--executor", "locale"], "did you mean 'local'"),
        (["--gpus", "2", "--parallel", "3"], "--gpus 2 for --parallel 3 jobs are 6 GPUs, and 4 are seen here"),
    ):
        assert cli.main(["array", "--approach", "dual_tower", *words]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="array starts runs of its own: start it without a launcher"):
        ArrayArguments().check(Config())
