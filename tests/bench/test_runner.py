"""`run`: each run in a process of its own, whose end is told for what it was; one that fails takes no other down; what
is done is not done again; no worker outlives its parent. The worker here acts fates out (tests/bench/ways.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import exits, finding, results_table, runner, store, worker
from bench.config import Config
from bench.console import Console
from bench.errors import UserError
from bench.run_arguments import RunArguments
from metrics.statistics import Estimate
from reports import schema
from tests.bench import ways

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    ways.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(runner, "WORKER", (sys.executable, ways.__file__))
    monkeypatch.setattr(store, "source_hash", lambda *_: "sources")  # somebody may be editing them
    return ways.micro(tmp_path)


def run(tmp_path: Path, config: Config, *approaches: str, **more: Any) -> int:
    arguments = RunArguments(approach=approaches, out=tmp_path / "runs", **more)
    return runner.main(arguments, config, Console(as_json=arguments.json))


def only(tmp_path: Path, approach: str) -> Path:
    (folder,) = (tmp_path / "runs").glob(f"{approach}-*")
    return folder


def status(tmp_path: Path, approach: str) -> store.State:
    state = store.read_state(only(tmp_path, approach))
    assert state is not None
    return state


FATES = [
    ("mistaken", "failed", "settings.depth is 3, expected what fits", 2),
    ("broken", "failed", "ArithmeticError: the loss is nan at step 7; the traceback is in ", 3),
    ("greedy", "out of memory", "9 PiB", 3),
    ("killed", "killed", "signal SIGKILL", 3),
    ("mute", "failed", "the process ended with 9 before it could say why", 3),
]


@pytest.mark.parametrize(("fate", "state", "reason", "code"), FATES, ids=[fate for fate, *_ in FATES])
def test_every_end_is_told_for_what_it_was(
    tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str], fate: str, state: str, reason: str, code: int
):
    assert run(tmp_path, config, fate) == code
    found = status(tmp_path, fate)
    assert found.state == state
    assert found.reason.startswith(reason)
    record = schema.load(only(tmp_path, fate))
    assert (record.status, record.reason) == (state, found.reason)
    assert (only(tmp_path, fate) / worker.ERROR).exists() == (fate in ("broken", "greedy"))
    captured = capsys.readouterr()
    assert f"{state}: {reason}" in captured.err and f"{state}: {reason}" in captured.out
    assert "skip" not in (captured.out + captured.err).lower() and "done" not in captured.out


def test_a_failure_takes_no_other_run_down(tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]):
    assert run(tmp_path, config, "killed", "good", "broken") == 3
    assert [status(tmp_path, name).state for name in ("killed", "good", "broken")] == ["killed", "done", "failed"]
    out = capfd.readouterr().out
    assert "good at work" in out
    assert "0.25 [0.2, 0.3]" in out and "validation_loss (lower is better)" in out


def test_the_systems_own_kill_for_memory_is_told_apart(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch):
    counts = iter([4, 5])
    monkeypatch.setattr(runner, "oom_kills", lambda: next(counts))
    assert run(tmp_path, config, "eaten") == 3
    assert status(tmp_path, "eaten").state == "out of memory"


def test_what_is_done_is_not_done_again_and_a_changed_config_is_another_run(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "good") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*.json")}
    capfd.readouterr()
    assert run(tmp_path, config, "good") == 0
    out = capfd.readouterr().out
    assert "done already" in out and "at work" not in out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/*.json")}
    assert run(tmp_path, replace(config, seed=5), "good") == 0
    assert run(tmp_path, config, "good", seeds=3) == 0
    assert len(list((tmp_path / "runs").glob("good-*"))) == 4  # seeds 0, 5, 1, 2
    (tmp_path / "words.jsonl").write_text((tmp_path / "words.jsonl").read_text() + '{"text": "one more document"}\n')
    assert run(tmp_path, config, "good") == 0
    assert len(list((tmp_path / "runs").glob("good-*"))) == 5


def test_a_done_run_without_its_weights_says_how_to_have_them_again(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "good") == 0
    folder = only(tmp_path, "good")
    (folder / store.WEIGHTS).write_bytes(b"")
    capfd.readouterr()
    assert run(tmp_path, config, "good") == 0
    assert "done already\n" in capfd.readouterr().out
    (folder / store.WEIGHTS).unlink()
    assert run(tmp_path, config, "good") == 0
    out = " ".join(capfd.readouterr().out.split())
    assert f"done already, but weights.safetensors is gone: to train it anew, delete {folder} and run it again" in out


def test_a_done_run_whose_record_is_damaged_is_worked_on_again(tmp_path: Path, config: Config):
    assert run(tmp_path, config, "good") == 0
    (only(tmp_path, "good") / schema.FILE).write_text("{")
    assert run(tmp_path, config, "good") == 0
    assert schema.load(only(tmp_path, "good")).status == "done"


def of_another(folder: Path) -> None:
    """Have a done run's folder hold another run of the same name: of another key, with other numbers."""
    for name in (store.REQUEST, schema.FILE):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "key": values["key"][:8] + "0" * 8}))
    record = schema.load(folder)
    metrics = {name: replace(each, value=0.99, low=0.98, high=1.0) for name, each in record.metrics.items()}
    schema.save(replace(record, metrics=metrics), folder)


def test_the_numbers_of_another_run_are_not_taken_by_the_folders_name(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "good") == 0
    of_another(folder := only(tmp_path, "good"))
    capfd.readouterr()
    with pytest.raises(UserError, match=f"^{folder} holds another run of the same name: .*--out"):
        run(tmp_path, config, "good")
    assert "0.99" not in capfd.readouterr().out
    assert finding.find(folder.name, tmp_path / "runs") == folder  # who reads it by its name still can


def test_a_folder_of_another_run_takes_no_other_run_down(
    tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "good") == 0
    of_another(folder := only(tmp_path, "good"))
    capfd.readouterr()
    assert run(tmp_path, config, "good", "killed") == 3
    told = capfd.readouterr()
    other = f"{folder} holds another run of the same name"
    assert f"warning: {other}" in told.err and f"{folder.name}: failed: {other}" in told.out
    assert "0.99" not in told.out
    assert status(tmp_path, "killed").state == "killed"


def test_the_config_of_another_run_is_not_taken_by_the_folders_name(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
):
    assert run(tmp_path, config, "good") == 0
    folder = only(tmp_path, "good")
    asked = store.Request.read(folder)
    other = replace(asked, config=replace(config, model=replace(config.model, vae="theirs")))
    for path in folder.iterdir():
        path.unlink()
    replace(other, key=asked.key[:8] + "0" * 8).write(folder)
    with pytest.raises(UserError, match=f"^{folder} holds another run of the same name"):
        run(tmp_path, config, "good")
    assert [path.name for path in folder.iterdir()] == [store.REQUEST]
    other.write(folder)  # by its key it is this one
    assert run(tmp_path, config, "good") == 0
    assert store.Request.read(folder) == asked
    assert schema.load(folder).config["model"]["vae"] == config.model.vae


@pytest.mark.timeout(60)  # where a pipe is waited for, it is for ever
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_run_without_a_lock_of_its_own_is_no_run(tmp_path: Path, config: Config, kind: str):
    assert run(tmp_path, config, "killed") == 3
    lock = only(tmp_path, "killed") / store.LOCK
    lock.unlink()
    os.mkfifo(lock) if kind == "pipe" else lock.symlink_to(tmp_path / "new")
    with pytest.raises(UserError, match=f"{lock} is a {kind}"):
        run(tmp_path, config, "killed")
    assert not (tmp_path / "new").exists()


def test_a_done_run_that_only_the_sources_or_the_text_keep_apart_is_named(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "good") == 0
    first = only(tmp_path, "good").name
    (tmp_path / "words.jsonl").write_text((tmp_path / "words.jsonl").read_text() + '{"text": "one more document"}\n')
    capfd.readouterr()
    assert run(tmp_path, config, "good") == 0
    assert f"{first} is done and differs in text alone; this is another run" in capfd.readouterr().out
    assert run(tmp_path, replace(config, seed=9), "good") == 0
    assert "differs in" not in capfd.readouterr().out
    now = store.sources_now
    monkeypatch.setattr(store, "sources_now", lambda name: {**now(name), "sources": "of another commit"})
    assert run(tmp_path, config, "good") == 0
    assert "differs in sources alone" in capfd.readouterr().out


def test_a_run_whose_request_is_gone_is_asked_for_again(tmp_path: Path, config: Config):
    assert run(tmp_path, config, "killed") == 3
    (only(tmp_path, "killed") / store.REQUEST).unlink()
    assert run(tmp_path, config, "killed") == 3
    assert status(tmp_path, "killed").state == "killed" and (only(tmp_path, "killed") / store.REQUEST).exists()


def test_a_run_that_another_machine_has_left_goes_on(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    assert run(tmp_path, config, "killed") == 3
    ways.moved(folder := only(tmp_path, "killed"))
    monkeypatch.setenv("SPARED", "by whoever killed it")
    with store.locked(folder), pytest.raises(store.BusyError, match="worked on by process 7 of another: wait for it"):
        run(tmp_path, config, "killed")
    assert run(tmp_path, config, "killed") == 0
    assert "was killed, goes on" in capfd.readouterr().out


def test_a_run_that_goes_on_takes_the_present_tracker_and_seconds_between_checkpoints(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["bench", "first"])
    assert run(tmp_path, config, "killed") == 3
    monkeypatch.setattr(sys, "argv", ["bench", "second"])
    monkeypatch.setenv("SPARED", "by whoever killed it")
    present = replace(config, train=replace(config.train, tracker="tensorboard", checkpoint_seconds=7.0))
    assert run(tmp_path, present, "killed") == 0
    request = store.Request.read(only(tmp_path, "killed"))
    assert request.config == present and request.command[-1] == "first"
    train = schema.load(only(tmp_path, "killed")).config["train"]
    assert (train["tracker"], train["checkpoint_seconds"]) == ("tensorboard", 7.0)
    assert run(tmp_path, config, "killed") == 0  # of what is done nothing changes
    assert store.Request.read(only(tmp_path, "killed")) == request


def test_json_is_all_that_goes_to_stdout(tmp_path: Path, config: Config, capfd: pytest.CaptureFixture[str]):
    assert run(tmp_path, config, "good", "broken", json=True) == 3
    good, broken = json.loads(capfd.readouterr().out)
    assert (good["state"], good["approach"], good["seed"]) == ("done", "good", 0)
    assert good["metrics"]["validation_loss"]["value"] == 0.25
    assert good["metrics"]["fid"] == Estimate.missing("no weights", better="lower").to_json()
    assert (broken["state"], broken["metrics"]) == ("failed", {})


def command(tmp_path: Path, approach: str) -> list[str]:
    code = (
        "import signal, sys; signal.signal(signal.SIGUSR2, lambda *_: sys.exit(-1));"  # as submitit does
        "from pathlib import Path; from bench import runner; from tests.bench import ways;"
        "from bench.console import Console; from bench.run_arguments import RunArguments as A; from bench import store;"
        "runner.WORKER = (sys.executable, ways.__file__); store.source_hash = lambda *_: 'sources';"
        f"out = Path({str(tmp_path)!r});"
        f"sys.exit(runner.main(A(approach=({approach!r},), out=out / 'runs'), ways.micro(out), Console()))"
    )
    return [sys.executable, "-c", code]


def begun(tmp_path: Path, config: Config, approach: str = "slow") -> tuple[subprocess.Popen[str], int]:
    """A `run` in a process of its own, whose worker has begun; and the worker's number."""
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, tmp_path / "site")))}
    parent = subprocess.Popen(
        command(tmp_path, approach),
        env=surroundings,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's `&` has it ignored
    )
    end = time.monotonic() + 120
    while parent.poll() is None and time.monotonic() < end:
        if list((tmp_path / "runs").glob("*/begun")):
            return parent, status(tmp_path, approach).process
        time.sleep(0.01)
    parent.kill()
    pytest.fail(f"no worker began: {parent.communicate()}")


def gone(process: int, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while store._born(process) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def test_no_worker_outlives_its_parent_and_its_run_was_killed(tmp_path: Path, config: Config):
    parent, process = begun(tmp_path, config)
    assert status(tmp_path, "slow").state == "running"
    parent.kill()
    parent.communicate()
    assert gone(process)
    assert status(tmp_path, "slow").state == "killed"
    assert schema.load(only(tmp_path, "slow")).status == "unfinished"


def test_without_the_signal_the_pipe_alone_ends_the_worker(tmp_path: Path):
    code = (
        "import sys, time; from bench import worker; worker.sys = type('s', (), {'platform': 'other'});"
        "worker.die_with_parent(); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert child.stdin is not None and child.poll() is None
    child.stdin.close()
    assert child.wait(60) == 1
    child.stdout.close()


def test_a_second_starter_is_refused_and_disturbs_nothing(tmp_path: Path, config: Config):
    parent, process = begun(tmp_path, config)
    with pytest.raises(UserError, match=f"is being worked on by process {process}: wait for it, or end it"):
        run(tmp_path, replace(config, train=replace(config.train, checkpoint_seconds=7.0)), "slow")
    assert store.Request.read(only(tmp_path, "slow")).config == config
    assert run(tmp_path, config, "slow", "good") == exits.MISTAKE  # it keeps no other run from its turn
    assert status(tmp_path, "good").state == "done" and status(tmp_path, "slow").process == process
    # Both may have started before either said so: then the lock decides.
    child = subprocess.run(
        [sys.executable, ways.__file__, str(only(tmp_path, "slow"))], input="", capture_output=True, text=True
    )
    assert child.returncode in (exits.BUSY, 1)  # 1 where it saw its input end before it looked at the lock
    assert status(tmp_path, "slow").process == process
    parent.kill()
    parent.communicate()
    assert gone(process)


@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interrupt_ends_worker_and_run(tmp_path: Path, config: Config, whole_group: bool):
    parent, process = begun(tmp_path, config)
    if whole_group:  # as a terminal does
        os.kill(process, signal.SIGINT)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode not in (0, 2)
    assert gone(process)
    found = status(tmp_path, "slow")
    assert (found.state, found.reason) == ("killed", "interrupted"), said
    assert schema.load(only(tmp_path, "slow")).status == "killed"


def test_a_job_that_is_moved_leaves_its_run_killed(tmp_path: Path, config: Config):
    """submitit asks for the job again, and leaves by SystemExit."""
    parent, process = begun(tmp_path, config)
    parent.send_signal(signal.SIGUSR2)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 255, said
    assert store._born(process) is None
    left = json.loads((only(tmp_path, "slow") / store.STATUS).read_text())  # as another machine reads it
    assert (left["state"], left["reason"]) == ("killed", "ended with what watched it (SystemExit)")
    assert schema.load(only(tmp_path, "slow")).status == "killed"


def test_exit_codes_of_several_runs(tmp_path: Path, config: Config):
    request = next(runner.plan(RunArguments(approach=("good",)), config, Console()))
    state = store.State(state="failed")

    def code(*codes: int) -> int:
        ends = [runner.Ended(request=request, folder=tmp_path, state=state, record=None, code=each) for each in codes]
        return runner.exit_code(ends)

    assert [code(0, 0), code(0, 2), code(2, 3), code(0, -9), code(2, 4), code(3, 130), code(1)] == [
        0,
        2,
        3,
        3,
        3,
        130,
        3,
    ]


def test_a_worker_that_dies_before_it_begins_is_not_told_by_its_last_end(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
):
    assert run(tmp_path, config, "broken") == 3
    assert "the loss is nan" in status(tmp_path, "broken").reason
    monkeypatch.setattr(runner, "WORKER", (sys.executable, "-c", "import os; os._exit(9)"))
    assert run(tmp_path, config, "broken") == 3
    assert status(tmp_path, "broken").reason == "the process ended with 9 before it could say why"


def test_nobody_reading_ends_no_work():
    read, write = os.pipe()
    os.close(read)
    code = (
        "import sys; from bench.console import Console; from bench.worker import Unheard\n"
        "sys.stdout, sys.stderr = Unheard(sys.stdout), Unheard(sys.stderr)\n"
        "console = Console()\n"
        "for _ in range(3): console.info('a \u2192 b ' * 5000); console.warn('x')\n"
        "with console.progress(2, 'work') as progress: progress.advance()\n"
    )
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, stdout=write, stderr=write, cwd=ROOT, env=surroundings)
    os.close(write)
    assert done.returncode == 0
    heard = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=surroundings)
    assert heard.returncode == 0 and heard.stdout.count("a \\u2192 b") == 15000 and "work: 1/2" in heard.stderr


def test_a_closed_terminal_ends_no_work():
    ours, theirs = os.openpty()
    stream = worker.Unheard(os.fdopen(theirs, "w"))
    os.close(ours)
    for _ in range(3):
        assert stream.write("a line\n" * 1000)
        stream.flush()
    assert stream.buffer is not None and stream.name == theirs and not stream.closed
    stream.stream.close()


def test_a_full_disk_ends_a_run_without_a_traceback(
    tmp_path: Path, config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise UserError("can't write x: No space left on device")

    def work(folder: Path, console: Console) -> None:
        monkeypatch.setattr(store, "end", full)
        monkeypatch.setattr(worker, "write_text", full)
        raise ArithmeticError("the loss is nan")

    (tmp_path / "run").mkdir()
    assert worker.guarded(tmp_path / "run", Console(), work) == exits.FAILED
    told = capsys.readouterr().err
    assert "run: failed: ArithmeticError: the loss is nan; its folder does not say so: can't write x: No space" in told


def test_memory_is_told_from_other_failures():
    assert worker.lacks_memory(MemoryError())
    assert worker.lacks_memory(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"))
    assert worker.lacks_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate")
    )
    assert not worker.lacks_memory(RuntimeError("shapes differ"))


def test_a_table_has_the_main_metrics_of_every_run(tmp_path: Path, config: Config):
    assert run(tmp_path, config, "good", seeds=2) == 0
    records = [schema.load(folder) for folder in sorted((tmp_path / "runs").glob("good-*"))]
    more = replace(records[0], metrics={**records[0].metrics, "caption_gap": Estimate.counted(7, unit="things")})
    rows = results_table.rows([more, records[1]])
    assert len({len(row) for row in rows}) == 1
    assert rows[0] == ("", f"good {more.seed}", f"good {records[1].seed}")
    assert ("caption_gap (things)", "7", "-") in rows
    assert ("fid (lower is better)", "-", "-") in rows
    assert ("  trained", "5", "5") in rows and ("seconds", "1:01", "1:01") in rows
