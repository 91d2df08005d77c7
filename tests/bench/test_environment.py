"""Provenance follows what it describes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import environment
from bench.environment import PACKAGES, SOURCES, WITNESS, commit, provenance, source_hash, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=surroundings).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one file in each of our packages."""
    for package in SOURCES:
        (tmp_path / package / "inner").mkdir(parents=True)
        (tmp_path / package / "inner" / "a.py").write_text(f"x = '{package}'\n")
    (tmp_path / WITNESS).touch()
    return tmp_path


def test_the_dirty_flag_follows_the_tree(tree: Path):
    git(tree, "init", "-q")
    assert commit(tree).reason.startswith("no commit yet")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "first")
    clean = commit(tree)
    assert (clean.id, clean.dirty, clean.reason) == (git(tree, "rev-parse", "HEAD"), False, "")
    (tree / "bench/inner/a.py").write_text("x = 1\n")
    assert commit(tree).dirty
    git(tree, "commit", "-qam", "second")
    second = commit(tree)
    assert second.dirty is False
    assert second.id != clean.id
    (tree / "new.py").touch()
    assert commit(tree).dirty
    (tree / ".gitignore").write_text("new.py\n.gitignore\n")
    assert commit(tree).dirty is False


def test_a_hooks_environment_does_not_mislead(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "first")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert commit(tree).id is not None


def test_outside_a_checkout_there_is_a_reason(tree: Path):
    found = commit(tree)
    assert (found.id, found.dirty) == (None, None)
    assert found.reason.startswith("no git checkout: ")


def test_an_installed_copy_is_not_of_the_repository_around_it(tree: Path):
    git(tree, "init", "-q")
    (tree / ".gitignore").write_text("bench\n")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "first")
    found = commit(tree)
    assert found.id is None
    assert "another's" in found.reason


def test_without_git_there_is_a_reason(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tree))
    found = commit(tree)
    assert found.id is None
    assert found.reason


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("fatal: detected dubious ownership in repository at '{}'\nTo add", "dubious ownership in repository at ..."),
        ("fatal: cannot change to '{}': No such file", "cannot change to ...: No such file"),
        ("fatal: not a git repository: {}/.git/worktrees/x", "not a git repository: ..."),
        (
            "fatal: not a git repository (or any of the parents): .git",
            "not a git repository (or any of the parents): .git",
        ),
        ("", "git ended with 128"),
    ],
)
@pytest.mark.parametrize("path", ["/home/me/work", "/home/o'me/my work", "C:/Users/me"])
def test_what_git_says_goes_into_a_record_without_the_machine_s_paths(
    tree: Path, monkeypatch: pytest.MonkeyPatch, said: str, kept: str, path: str
):
    def fails(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(128, command, stderr=said.format(path))

    monkeypatch.setattr(subprocess, "run", fails)
    reason = commit(tree).reason
    assert kept in reason and not re.search("home|Users|my work|me/", reason), reason


def test_git_that_does_not_answer_is_said_without_its_command(tree: Path, monkeypatch: pytest.MonkeyPatch):
    def hangs(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    monkeypatch.setattr(subprocess, "run", hangs)
    assert commit(tree).reason == "no git checkout: git took more than 30 seconds"


def test_the_source_hash_follows_every_source_and_nothing_else(tree: Path):
    seen = {source_hash(tree)}
    (tree / "bench" / "notes.txt").write_text("x")
    (tree / "other.py").write_text("x")
    assert source_hash(tree) in seen
    for package in SOURCES:
        path = tree / package / "inner" / "a.py"
        path.write_text(path.read_text() + "# more\n")
        seen.add(source_hash(tree))
        path.rename(path.with_name("b.py"))
        seen.add(source_hash(tree))
    assert len(seen) == 1 + 2 * len(SOURCES)


def test_the_source_hash_does_not_depend_on_where_the_sources_lie(tree: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    subprocess.run(["cp", "-r", str(tree), str(elsewhere)], check=True)
    assert source_hash(elsewhere) == source_hash(tree)


def test_provenance_is_plain_json_and_carries_the_callers_seeds():
    found = provenance({"run": 3})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["seeds"] == {"run": 3}
    assert found["sources"] == source_hash()
    assert found["cores"] >= 1
    assert set(found["packages"]) <= set(PACKAGES)
    assert found["packages"] == versions(PACKAGES)


def test_torchs_threads_are_those_that_torch_uses():
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert provenance()["threads"]["intra_op"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("", 8),
        ("1 0", 8),
    ],
)
def test_a_container_s_share_of_time_bounds_the_cores(
    said: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(environment, "QUOTA", tmp_path / "cpu.max")
    assert environment.usable_cores() == 8
    (tmp_path / "cpu.max").write_text(said)
    assert environment.usable_cores() == cores
