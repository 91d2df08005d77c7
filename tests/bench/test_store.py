"""Run folders: a key that holds all that decides a result and nothing else, states that tell the truth, one worker at a
time, names that lead to one run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from approaches.settings import DualTowerSettings, FullRetrainingSettings
from bench import finding, launch, store
from bench.config import Config
from bench.environment import source_hash
from bench.errors import UserError
from tests.bench import ways

FOUND = {"data": "d", "text": "t", "model.lm": "l", "model.vae": "v"}


def key(
    config: Config | None = None, approach: str = "dual_tower", settings: Any = None, found: dict[str, str] = FOUND
) -> str:
    return store.request(config or Config(), approach, settings or DualTowerSettings(), found).key


def changed(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1), ("preset", "x"), ("data.size", 64), ("data.seed", 1), ("data.eval_items", 3), ("text.seed", 1),
        ("model.lm", "package:smollm2"), ("diffusion.nfe", 3), ("kernels.norm", "eager"), ("train.amount", 1.0),
        ("train.precision", "bf16"), ("train.validations", 2), ("evaluate.pictures", 3), ("evaluate.batch", 3),
    ],
)  # fmt: skip
def test_a_changed_config_is_another_run(path: str, value: Any):
    assert key(changed(Config(), path, value)) != key()


@pytest.mark.parametrize(
    ("path", "value"), [("train.tracker", "tensorboard"), ("train.checkpoint_seconds", 1.0), ("pretrain.lm.width", 48)]
)
def test_what_changes_no_result_changes_no_key(path: str, value: Any):
    assert key(changed(Config(), path, value)) == key()


def test_approach_settings_data_and_weights_are_in_the_key():
    keys = [
        key(),
        key(settings=DualTowerSettings(variant="gated")),
        key(approach="full_retraining"),
        key(approach="full_retraining", settings=FullRetrainingSettings()),
        *(key(found={**FOUND, name: "other"}) for name in FOUND),
    ]
    assert len(set(keys)) == len(keys)


def test_sources_are_in_the_key_and_reports_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package in ("bench", "approaches", "metrics", "reports"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    before = key()
    (tmp_path / "reports" / "a.py").write_text("x = 2\n")
    assert key() == before
    for package in store.DECIDING:
        (tmp_path / package / "a.py").write_text("x = 2\n")
        assert key() != before
        before = key()
    assert source_hash(tmp_path, ("bench",)) != source_hash(tmp_path)


def test_a_strangers_sources_are_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ways.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = key(approach="good")
    assert before == key(approach="good")
    (tmp_path / "strangers" / "way.py").write_text("x = 1\n")
    assert key(approach="good") != before
    before = key(approach="good")
    (tmp_path / "strangers" / "way.py").rename(tmp_path / "strangers" / "ways.py")
    assert key(approach="good") != before


# ------------------------------------------------------------------------------------------- request, state, lock


def asked(out: Path, approach: str = "dual_tower", **changes: Any) -> Path:
    request = store.request(replace(Config(), **changes), approach, DualTowerSettings(), FOUND, ("bench", "run"))
    folder = out / request.name
    folder.mkdir(parents=True)
    request.write(folder)
    assert store.Request.read(folder) == request
    return folder


def test_a_request_comes_back_and_a_foreign_one_is_refused(tmp_path: Path):
    folder = asked(tmp_path)
    assert folder.name.startswith("dual_tower-tiny-")
    values = json.loads((folder / store.REQUEST).read_text())
    for change, word in (
        ({"config": {"preset": "tiny", "sise": 3}}, "sise"),
        ({"config": []}, "another version"),
        ({"command": None}, "no request"),
    ):
        (folder / store.REQUEST).write_text(json.dumps({**values, **change}))
        with pytest.raises(UserError, match=word):
            store.Request.read(folder)
    del values["key"]
    (folder / store.REQUEST).write_text(json.dumps(values))
    with pytest.raises(UserError, match="'key'"):
        store.Request.read(folder)


def test_a_run_of_before_captions_had_words_before_them_keeps_the_start_token(tmp_path: Path):
    folder = asked(tmp_path)
    values = json.loads((folder / store.REQUEST).read_text())
    assert store.Request.read(folder).config.train.describe_prompt == values["config"]["train"]["describe_prompt"] != ""
    del values["config"]["train"]["describe_prompt"]
    (folder / store.REQUEST).write_text(json.dumps(values))
    assert store.Request.read(folder).config.train.describe_prompt == ""


def test_a_running_run_is_running_only_while_its_process_lives(tmp_path: Path):
    assert store.read_state(tmp_path) is None
    store.write_state(tmp_path, "running")
    state = store.read_state(tmp_path)
    assert state is not None and state.state == "running"
    values = dataclasses.asdict(state)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for change, expected in (
        ({"process": gone.pid}, "killed"),
        ({"born": state.born - 1000}, "killed"),  # the number is another process's now
        ({"machine": "another", "process": gone.pid}, "killed"),  # nobody has made its lock
    ):
        (tmp_path / store.STATUS).write_text(json.dumps({**values, **change}))
        found = store.read_state(tmp_path)
        assert found is not None and found.state == expected
    assert [path.name for path in tmp_path.iterdir()] == [store.STATUS]
    for damage in ({"state": "splendid"}, {"process": "7"}, {"reason": None}, {"stat": 1}):
        (tmp_path / store.STATUS).write_text(json.dumps({**values, **damage}))
        with pytest.raises(UserError, match=f"status.json is no status of a run: .*{next(iter(damage))}"):
            store.read_state(tmp_path)
    (tmp_path / store.STATUS).write_text(json.dumps({**values, "process": -1}))
    found = store.read_state(tmp_path)
    assert found is not None and found.state == "killed"
    ends: tuple[store.RunState, ...] = ("done", "failed", "killed", "out of memory")
    for end in ends:
        store.write_state(tmp_path, end)
        found = store.read_state(tmp_path)
        assert found is not None and found.state == end


def test_a_process_that_ended_but_is_not_buried_is_gone(tmp_path: Path):
    body = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    born = store._born(body.pid)
    assert born is not None
    body.kill()
    while store._born(body.pid) is not None:
        time.sleep(0.01)
    body.communicate()


def holder_of(folder: Path) -> subprocess.Popen[str]:
    """Another process, which holds a run's lock until it is ended."""
    code = (
        "import sys, time; from pathlib import Path; from bench import store\n"
        "with store.locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_of_another_machine_the_lock_tells_whether_a_run_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.write_state(tmp_path, "running")
    values = json.loads((tmp_path / store.STATUS).read_text())
    (tmp_path / store.STATUS).write_text(json.dumps({**values, "machine": "another", "process": 7}))
    holder = holder_of(tmp_path)
    for _ in range(3):  # to look disturbs nobody
        state = store.read_state(tmp_path)
        assert state is not None and (state.state, state.process) == ("running", 7)
    with pytest.raises(store.BusyError, match="is being worked on by process 7 of another: "), store.locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    state = store.read_state(tmp_path)
    assert state == store.State(state="killed", reason="process 7 of another holds it no longer")
    with (tmp_path / store.LOCK).open() as file:  # others look at the same time
        store._lock(file, shared=True)
        assert store.read_state(tmp_path) == state
        monkeypatch.setattr(store, "PATIENCE", 5.0)  # a slow machine's timer may be late
        threading.Timer(0.2, file.close).start()
        with store.locked(tmp_path):  # and whoever would work waits until they have looked
            assert store.read_state(tmp_path) != state


def test_what_changes_no_result_may_change_in_a_run_that_goes_on(tmp_path: Path):
    folder = asked(tmp_path)
    first = store.Request.read(folder)
    train = replace(first.config.train, tracker="tensorboard", checkpoint_seconds=7.0)
    again = replace(first, config=replace(first.config, train=train), command=("bench", "run", "again"))
    holder = holder_of(folder)
    with pytest.raises(store.BusyError):
        again.renew(folder)
    assert store.Request.read(folder) == first
    first.renew(folder)  # nothing to write
    holder.kill()
    holder.communicate()
    with pytest.raises(UserError, match=f"^{folder} holds another run of the same name: move it away or delete it"):
        replace(again, key="0" + again.key).renew(folder)
    assert store.Request.read(folder) == first
    for change in ({}, {"settings": {"variant": "of somebody else"}}, {"approach": "projection"}):
        replace(first, **change).write(folder)
        again.renew(folder)
        assert store.Request.read(folder) == replace(again, command=first.command)
    (folder / store.REQUEST).write_text("{")
    again.renew(folder)
    assert (folder / store.REQUEST).read_text() == "{"


def test_a_run_that_is_gone_is_told_with_what_its_other_ranks_said(tmp_path: Path):
    store.write_state(tmp_path, "running")
    values = json.loads((tmp_path / store.STATUS).read_text())
    (tmp_path / store.STATUS).write_text(json.dumps({**values, "born": 1.0}))
    launch.Failure(rank=1, kind="cut off", said="RuntimeError: closed").write(tmp_path)
    launch.Failure(rank=2, kind="mistake", said="No space left").write(tmp_path)
    (tmp_path / launch.FAILURE.format(3)).write_text("{")
    state = store.read_state(tmp_path)
    assert state == store.State(state="killed", reason="its process is gone; rank 2: No space left")
    launch.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [store.STATUS]


def test_a_run_has_one_worker_and_the_lock_dies_with_it(tmp_path: Path):
    holder = holder_of(tmp_path)
    with pytest.raises(store.BusyError, match="is being worked on"), store.locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    for _ in range(2):
        with store.locked(tmp_path):
            pass


@pytest.mark.timeout(30)  # where a pipe is waited for, it is for ever
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_is_a_file_of_the_run(tmp_path: Path, kind: str):
    folder = asked(tmp_path / "runs")
    if kind == "link":
        (folder / store.LOCK).symlink_to(tmp_path / "new")
    else:
        os.mkfifo(folder / store.LOCK)
    ways.moved(folder)
    state = store.read_state(folder)
    assert state is not None and state.state == "killed"
    with pytest.raises(UserError, match=f"{folder / store.LOCK} is a {kind}"), store.locked(folder):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.timeout(30)  # where a pipe is waited for, it is for ever
@pytest.mark.parametrize("name", [store.REQUEST, store.STATUS])
def test_a_pipe_in_a_run_is_not_waited_for(tmp_path: Path, name: str):
    folder, other = asked(tmp_path), asked(tmp_path, seed=1)
    store.write_state(folder, "done")
    store.write_state(other, "done")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert [run.folder for run in finding.runs(tmp_path)] == [other] and finding.damaged(tmp_path) == [folder]
    with pytest.raises(UserError, match=f"run {folder.name} is damaged.*{name} is a pipe"):
        finding.find(folder.name, tmp_path)


# -------------------------------------------------------------------------------------------------------- finding


def test_a_run_is_found_by_folder_name_key_and_approach(tmp_path: Path):
    first, second = asked(tmp_path), asked(tmp_path, seed=1)
    other = asked(tmp_path, "projection")
    for folder in (first, second, other):
        store.write_state(folder, "done")
        time.sleep(0.002)
    key_of = {folder: store.Request.read(folder).key for folder in (first, second, other)}
    for folder in (first, second, other):
        for text in (str(folder), folder.name, folder.name[:-1], key_of[folder], key_of[folder][:7]):
            assert finding.find(text, tmp_path) == folder
    assert finding.find("dual_tower", tmp_path) == second
    store.write_state(first, "done")
    assert finding.find("dual_tower", tmp_path) == first
    store.write_state(first, "killed")
    assert finding.find("dual_tower", tmp_path) == second  # the latest that is done


def test_a_whole_name_is_that_run_though_it_begins_another(tmp_path: Path):
    folder = asked(tmp_path)
    store.write_state(folder, "done")
    shutil.copytree(folder, folder.with_name(f"{folder.name}-copy"))
    assert finding.find(folder.name, tmp_path) == folder
    with pytest.raises(UserError, match="begins 2 runs"):
        finding.find(folder.name[:-1], tmp_path)


@pytest.mark.parametrize(("file", "text"), [(store.STATUS, "{"), (store.REQUEST, "{"), (store.REQUEST, "[]")])
def test_a_damaged_run_is_not_passed_over_in_silence(tmp_path: Path, file: str, text: str):
    first, second = asked(tmp_path), asked(tmp_path, seed=1)
    other = asked(tmp_path, "projection")
    for folder in (first, second, other):
        store.write_state(folder, "done")
    (second / file).write_text(text)
    (tmp_path / "projection_two-tiny-01").mkdir()
    (tmp_path / "projection_two-tiny-01" / store.REQUEST).write_text("{")  # another approach's
    for asked_for in ("dual_tower", second.name, second.name[:-1], second.name[-8:] + "0" * 56):
        with pytest.raises(UserError, match=f"run {second.name} is damaged, mend or delete .*: .*{file}"):
            finding.find(asked_for, tmp_path)
    assert finding.find(first.name, tmp_path) == first and finding.find("projection", tmp_path) == other
    shutil.rmtree(first)
    shutil.rmtree(other)
    (second / "record.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):  # rather than that there are records alone
        finding.find("dual_tower", tmp_path)


def test_a_part_that_an_older_run_did_not_keep_is_no_other_source(tmp_path: Path):
    request = store.Request.read(asked(tmp_path))
    assert store.other_sources(request) == []
    parts = {name: value for name, value in request.parts.items() if name != "foreign sources"}
    assert store.other_sources(replace(request, parts=parts)) == []
    assert store.other_sources(replace(request, parts={**parts, "sources": "others"})) == ["sources"]


def test_a_strangers_module_that_moved_is_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "strangers_own" / "part"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = store.foreign_sources("strangers_own.part:Way")
    assert before == store.foreign_sources("strangers_own:Way") != ""
    package.rename(package.with_name("other"))
    assert store.foreign_sources("strangers_own.other:Way") != before


def test_a_name_that_leads_nowhere_says_what_would(tmp_path: Path):
    with pytest.raises(UserError, match="no run in .* makes some"):
        finding.find("dual_tower", tmp_path)
    (tmp_path / "of-somebody").mkdir()
    (tmp_path / "of-somebody" / "record.json").write_text("{}")
    with pytest.raises(UserError, match="holds records alone, such as of-somebody, without what their runs trained"):
        finding.find("of-somebody", tmp_path)
    with pytest.raises(UserError, match="of-somebody holds a record alone, without what its run trained"):
        finding.find(str(tmp_path / "of-somebody"), tmp_path / "elsewhere")
    (tmp_path / "of-somebody" / "record.json").unlink()
    first, _ = asked(tmp_path), asked(tmp_path, seed=1)
    for text, sentence in (
        ("dual_towr", "did you mean 'dual_tower'"),
        (first.name.replace("tiny", "tiyn"), f"did you mean '{first.name}'"),
        ("dual_tower-tiny", "begins 2 runs, expected one of: "),
        (first.name, "is not begun, expected a done one"),
        ("", "no run ''"),
        ("a large red circle " * 40, "no run 'a large red circle"),  # a prompt in a run's place, too long for a name
        ("~nobody-here/x", "no run '~nobody-here/x'"),
    ):
        with pytest.raises(UserError) as caught:
            finding.find(text, tmp_path)
        assert sentence in str(caught.value)
    store.write_state(first, "out of memory", "9 PiB")
    with pytest.raises(UserError, match="is out of memory, expected a done one"):
        finding.find(first.name, tmp_path)
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / store.REQUEST).write_text("{")
    assert [run.approach for run in finding.runs(tmp_path)] == ["dual_tower", "dual_tower"]


def test_a_lock_that_can_not_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    """As in a folder that somebody else made."""
    with pytest.raises(UserError, match=f"can't write {tmp_path / 'gone' / store.LOCK}: No such"):  # noqa: SIM117
        with store.locked(tmp_path / "gone"):
            pass
