"""Nothing goes that was not named; a done run's record goes with the kind `done` alone; a run at work stays whole."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import cli, store
from bench.clean import CACHES, _remove
from bench.clean_arguments import KINDS
from bench.config import Config
from bench.environment import ROOT
from bench.files import atomic_path, write_json

CACHED = tuple(
    f"{name}/{place:016x}{end}" for place, (name, end) in enumerate(
        [("pictures", ".npy"), ("pictures", ".json"), ("latents", ".safetensors"), ("features", ".safetensors"),
         ("tokens", ".npy"), ("pydocs", ".jsonl"), ("emoji", ".npz"), ("verdicts", ".json"), ("gguf", "/x/config.json")]
    )
)  # fmt: skip
FILES = ("record.json", "weights.safetensors", "checkpoint.safetensors", "samples/grid.png")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A done, a killed and a running run, somebody's own folder beside them, and a cache."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in (*CACHED, "mine/d"):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_bytes(bytes(1000))
    folder = tmp_path / "runs"
    request = store.Request(approach="a", settings={}, config=Config(), key="k", parts={})
    for name in ("done", "killed", "running"):
        for file in FILES:
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(bytes(100))
        (folder / name / "record.json").unlink()
        replace(request, key=name).write(folder / name)
        store.write_state(folder / name, "done" if name == "done" else "running")
        (folder / name / "record.json").write_bytes(bytes(100))
    (folder / "killed" / "record.json").unlink()
    store.end(folder / "killed", "killed", "by a test")
    (folder / "killed" / "record.json").write_bytes(bytes(100))
    (folder / "own").mkdir()
    (folder / "own" / "notes.txt").write_text("mine")
    return folder


def everything(out: Path) -> set[str]:
    return {str(path.relative_to(out.parent)) for path in out.parent.rglob("*") if path.is_file()}


def clean(out: Path, *words: str) -> int:
    return cli.main(["clean", "--out", str(out), *words])


def gone(out: Path, *words: str) -> set[str]:
    before = everything(out)
    assert clean(out, *words) == 0
    return {name for name in before - everything(out) if not name.endswith("/lock")}


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--what", *KINDS], ["--what", *KINDS, "--delete", "--dry-run"]])
def test_a_dry_run_deletes_nothing(out: Path, words: list[str], capsys: pytest.CaptureFixture[str]):
    assert gone(out, *words) == set()
    told = capsys.readouterr().out
    assert "nothing was deleted" in told and all(f"{kind}: " in told for kind in KINDS)


def test_a_run_at_work_is_told_once(out: Path, capsys: pytest.CaptureFixture[str]):
    assert clean(out) == 0
    assert capsys.readouterr().err.count("running is at work, and left alone") == 1


def test_each_kind_frees_its_own_and_no_more(out: Path):
    own = out.parent / "cache" / "pictures" / "holiday.npy"
    own.write_bytes(bytes(10))
    part = "gguf/.part-ab12/whole/model.safetensors"  # of an unpacking that was killed
    (out.parent / "cache" / part).parent.mkdir(parents=True)
    (out.parent / "cache" / part).write_bytes(bytes(10))
    now = "gguf/.part-cd34/model.safetensors"  # somebody is at it
    (out.parent / "cache" / now).parent.mkdir()
    (out.parent / "cache" / now).write_bytes(bytes(10))
    os.utime(out.parent / "cache" / "gguf" / ".part-ab12", (0, 0))
    assert gone(out, "--what", "caches", "--delete") == {f"cache/{name}" for name in (*CACHED, part)}
    assert own.exists() and not (out.parent / "cache" / "latents").exists()
    assert gone(out, "--what", "checkpoints", "--delete") == {"runs/killed/checkpoint.safetensors"}
    assert gone(out, "--what", "weights", "--delete") == {"runs/done/weights.safetensors"}
    assert (out / "done" / "record.json").exists()
    assert {name.split("/")[1] for name in gone(out, "--what", "unfinished", "--delete")} == {"killed"}
    assert (out / "done" / "record.json").exists()
    assert {name.split("/")[1] for name in gone(out, "--what", "done", "--delete")} == {"done"}
    assert {path.name for path in out.iterdir()} == {"running", "own"}


def test_a_run_that_somebody_just_began_is_left_whole(out: Path):
    with store.locked(out / "killed"):
        assert clean(out, "--what", "unfinished", "--delete") == 2
    assert (out / "killed" / "record.json").exists()


def test_what_waits_in_a_queue_stays(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """With SLURM's command put in place: of two runs that were asked for, one has left the queue."""
    store.Request(approach="a", settings={}, config=Config(), key="w", parts={}).write(out / "waits")
    commands = out.parent / "bin"
    commands.mkdir()
    (commands / "sacct").write_text("#!/bin/sh\nprintf 'JobID|State\\n77_0|PENDING\\n77_1|FAILED\\n'\n")
    (commands / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    write_json(out / "jobs" / "jobs.json", {"waits": "77_0", "killed": "77_1"})
    assert {name.split("/")[1] for name in gone(out, "--what", "unfinished", "--delete")} == {"killed"}
    assert "waits is in the queue as job 77_0, pending, and left alone" in capsys.readouterr().err


def test_a_run_that_ended_since_it_was_looked_at_is_left_whole(out: Path):
    for kind, name in (("unfinished", "done"), ("checkpoints", "done/checkpoint.safetensors")):
        _remove(out / name, kind, out)
        assert (out / name).exists()


def test_what_is_being_written_stays(out: Path):
    target = out.parent / "cache" / "pictures" / f"{3:016x}.npy"
    with atomic_path(target) as writing:
        writing.write_bytes(bytes(10))
        assert gone(out, "--what", "caches", "--delete") == {f"cache/{name}" for name in CACHED}
        os.utime(writing, (0, 0))  # however long ago: its process lives
        assert gone(out, "--what", "caches", "--delete") == set() and writing.exists()
    assert target.exists()
    dead = target.with_name(re.sub(r"-\d+-", "-4194305-", f".{writing.name.lstrip('.')}"))  # of no process
    dead.write_bytes(bytes(10))
    os.utime(dead, (0, 0))
    assert gone(out, "--what", "caches", "--delete") == {f"cache/pictures/{name}" for name in (target.name, dead.name)}


def test_a_name_that_only_begins_like_a_hash_is_somebodys(out: Path):
    own = out.parent / "cache" / "pictures" / f"{0:016x}-of-mine"
    own.write_bytes(bytes(10))
    assert gone(out, "--what", "caches", "--delete") == {f"cache/{name}" for name in CACHED} and own.exists()


def test_a_run_that_does_not_read_is_told_and_left(out: Path, capsys: pytest.CaptureFixture[str]):
    (out / "killed" / store.REQUEST).write_text("{")
    assert gone(out, "--what", "unfinished", "--delete") == set()
    assert f"{out / 'killed'} does not read as a run" in capsys.readouterr().err


def test_every_cache_that_is_made_can_be_freed():
    made = set()
    for package in ("approaches", "bench", "metrics"):
        for path in (ROOT / package).rglob("*.py"):
            made |= set(re.findall(r'cache_directory\(\) / "(\w+)"', path.read_text(encoding="utf-8")))
    assert made == set(CACHES)


def test_what_is_told_is_what_it_takes(out: Path, capsys: pytest.CaptureFixture[str]):
    assert clean(out, "--what", "caches", "weights", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {kind: value["bytes"] for kind, value in found.items()} == {"caches": 1000 * len(CACHED), "weights": 100}
    assert not any(value["deleted"] for value in found.values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--what", "cache"], "--what is 'cache': did you mean 'caches'?"),
        (["--delete"], "--delete needs --what, one or more of: caches, checkpoints"),
        (["--force"], "'clean' has no option --force"),
        (["--out", "nowhere"], "--out nowhere is not there, expected the folder of some runs"),
        (["--out", "n" * 300], ": File name too long"),
    ],
)
def test_a_mistake_gets_one_sentence(out: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
    assert clean(out, *words) == 2
    assert sentence in capsys.readouterr().err


def test_a_link_to_somebodys_run_is_told_and_left(out: Path, capsys: pytest.CaptureFixture[str]):
    precious = out.parent / "precious"
    (out / "done").rename(precious)
    (out / "done").symlink_to(precious)
    assert gone(out, "--what", *sorted(KINDS.keys() - {"caches"}), "--delete") == {
        f"runs/killed/{name}" for name in (*FILES, store.REQUEST, store.STATUS)
    }
    assert (out / "done").is_symlink() and all((precious / name).exists() for name in FILES)
    assert capsys.readouterr().err.count(f"{out / 'done'} is a link, and left alone") == 1


def test_a_link_out_of_a_run_is_told_and_left(out: Path, capsys: pytest.CaptureFixture[str]):
    (out.parent / "precious.safetensors").write_bytes(bytes(10))
    for name, kind in (("done/weights.safetensors", "weights"), ("killed/checkpoint.safetensors", "checkpoints")):
        (out / name).unlink()
        (out / name).symlink_to(out.parent / "precious.safetensors")
        assert gone(out, "--what", kind, "--delete") == set() and (out / name).is_symlink()
        assert f"{out / name} is a link out of its run, and left alone" in capsys.readouterr().err
        (out / name).unlink()
        (out / name).symlink_to("samples/grid.png")
        assert gone(out, "--what", kind, "--delete") == {f"runs/{name}"}
        assert (out / name.partition("/")[0] / "samples" / "grid.png").exists()


def test_a_link_to_itself_is_nothing_that_clean_frees(out: Path):
    (out / "done" / "weights.safetensors").unlink()
    (out / "done" / "weights.safetensors").symlink_to("weights.safetensors")
    assert gone(out, "--what", "weights", "--delete") == set()


def test_a_lock_that_leads_elsewhere_makes_no_file_there(out: Path, capsys: pytest.CaptureFixture[str]):
    (out / "done" / store.LOCK).symlink_to(out.parent / "new")
    assert clean(out, "--what", "weights", "--delete") == 2
    assert f"{out / 'done' / store.LOCK} is a link" in capsys.readouterr().err
    assert not (out.parent / "new").exists() and (out / "done" / store.WEIGHTS).exists()
