"""The leaves that everything stands on: messages, names, whole files, streams of randomness."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from approaches.shared.randomness import generator
from bench import files, torchvision_guard
from bench.errors import UserError, nearest
from bench.files import atomic_path, cache_directory, hash_bytes, hash_file, read_json, require_space, write_json
from bench.plain import build, plain
from bench.registry import Registry
from bench.seeds import derive

ROOT = Path(__file__).parents[1]


def parts_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


# dataclasses as plain values


@dataclass(frozen=True, kw_only=True)
class Leaf:
    share: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: dict[str, Leaf]
    way: Literal["up", "down"] = "up"
    more: Leaf | None = None


def test_a_dataclass_comes_back_from_plain_values() -> None:
    tree = Tree(leaves={"a": Leaf(share=0.5, names=("x", "y"))}, more=Leaf(share=2.0))
    assert json.loads(json.dumps(plain(tree))) == plain(tree)
    assert build(Tree, plain(tree), full=True) == tree
    assert build(Tree, {"leaves": {"a": {"share": 1}}}) == Tree(leaves={"a": Leaf(share=1.0)})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], "the whole is [], expected an object"),
        ({}, "the field 'leaves' is missing"),
        ({"leaves": {"a": {}}}, "the field 'leaves.a.share' is missing"),
        ({"leaves": {}, "wey": "up"}, "unknown field 'wey': did you mean 'way'?"),
        ({"leaves": {}, "way": "upp"}, "way is 'upp': did you mean 'up'?"),
        ({"leaves": {}, "more": {"share": "1"}}, "more.share is '1', expected float"),
        ({"leaves": {}, "more": {"share": True}}, "more.share is True, expected float"),
        ({"leaves": {}, "more": {"share": 2**53}}, "more.share is 9007199254740992, expected float"),
        ({"leaves": {}, "more": {"share": math.inf}}, "more.share is inf, expected a finite number"),
        ({"leaves": {}, "more": {"share": 1.0, "names": "x"}}, "more.names is 'x', expected a list"),
        ({"leaves": {}, "more": {"share": 1.0, "names": ["x", 3]}}, "more.names[1] is 3, expected text"),
    ],
)
def test_what_is_not_of_its_kind_is_named(values: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build(Tree, values)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "it says 'b' twice"),
        ("[" * 100_000, "is not readable as JSON: "),
        ('{"a": NaN}', "it holds NaN"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "file.json")
    assert sentence in str(caught.value) and str(tmp_path / "file.json") in str(caught.value)


# errors and registry


def test_nearest_suggests_the_close_one_or_lists_all_sorted() -> None:
    assert nearest("shaps", ["emoji", "shapes"]) == "did you mean 'shapes'?"
    assert nearest("zzz", ["shapes", "emoji"]) == "expected one of: emoji, shapes"


def test_a_registry_is_lazy_refuses_collisions_and_suggests() -> None:
    registry = Registry("thing")
    registry.add("json", "json:loads", "parses")
    registry.add("absent", "no_such_module_anywhere:x", "never imported", lambda: "install it")
    assert registry["json"].load()("[1]") == [1]
    assert registry["absent"].obstacle() == "install it"
    assert (list(registry), len(registry), "json" in registry, "yaml" in registry) == (
        ["json", "absent"],
        2,
        True,
        False,
    )
    with pytest.raises(ValueError, match=r"thing 'json' is registered twice: json:loads and json:dumps"):
        registry.add("json", "json:dumps", "")
    with pytest.raises(UserError, match="unknown thing 'jsn': did you mean 'json'"):
        registry["jsn"]
    with pytest.raises(ModuleNotFoundError):
        registry["absent"].load()


# files


def test_a_written_file_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.json"
    value = {"b": [1, 2.5, None, "é"], "a": {}}
    write_json(target, value)
    assert read_json(target) == value
    assert target.read_text(encoding="utf-8").startswith('{\n  "a"')
    assert list(target.parent.iterdir()) == [target]
    mask = os.umask(0)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert parts_in(tmp_path) == []


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    code = (
        "import sys, time; from pathlib import Path; from bench.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as part:\n"
        " part.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL
    child.stdout.close()
    assert target.read_text() == "old"
    (left,) = parts_in(tmp_path)
    with atomic_path(target) as part:
        assert parts_in(tmp_path) == [part] != [left]  # what the dead process left is gone
        with atomic_path(target) as other:  # and what a living one has is not
            assert sorted(parts_in(tmp_path)) == sorted([part, other])
            other.write_text("other")
        part.write_text("new")
    assert target.read_text() == "new" and parts_in(tmp_path) == []


@pytest.mark.parametrize("name", [".b.{0}-1.part", ".a.b.{0}-{1}-x.part", ".a.00000000-{1}-x.part", ".a.{0}-{1}-x.txt"])
def test_only_parts_of_the_same_target_and_machine_are_cleared(tmp_path: Path, name: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(timeout=30)
    foreign = tmp_path / name.format(hash_bytes(platform.node())[:8], child.pid)
    foreign.write_text("another's")
    write_json(tmp_path / "a", 0)
    assert foreign.read_text() == "another's"


def test_readers_see_the_old_or_the_new_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, 0)
    code = (
        "import sys; from pathlib import Path; from bench.files import write_json\n"
        "for n in range(60): write_json(Path(sys.argv[1]), [n] * 20_000)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        value = read_json(target)
        assert value == 0 or (len(value) == 20_000 and len(set(value)) == 1)
    assert child.wait(timeout=30) == 0
    assert read_json(target) == [59] * 20_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_the_users_error_and_keeps_the_old_file(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(UserError, match=f"can't write {target}: {os.strerror(number)}"), atomic_path(target) as part:
        part.write_text("half")
        raise OSError(number, os.strerror(number))
    assert target.read_text() == "old"
    assert parts_in(tmp_path) == []


def test_a_disk_that_fills_at_the_flush_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.json"
    write_json(target, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_json(target, "new")
    assert read_json(target) == "old"
    assert parts_in(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a Linux device that is always full")
def test_a_truly_full_device_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), atomic_path(tmp_path / "a"), open("/dev/full", "wb") as full:
        full.write(b"x")
        full.flush()


def test_a_library_that_meets_a_full_disk_is_understood(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        """What safetensors raises, which is no OSError."""

    for words, kind in (
        ("I/O error: No space left on device (os error 28)", UserError),
        ("I/O error: Disk quota exceeded (os error 122)", UserError),
        ("the header is too large", SafetensorError),
    ):
        with pytest.raises(kind, match=re.escape(words)), atomic_path(tmp_path / "a"):
            raise SafetensorError(words)


def test_another_os_error_is_ours(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="odd") as caught, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "odd")
    assert not isinstance(caught.value, UserError)


def test_a_file_where_a_folder_should_be_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't write"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_json_has_no_nan_and_says_which_file_is_broken(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, float("nan"))
    assert not target.exists()
    with pytest.raises(UserError, match=f"no such file: {target}"):
        read_json(target)
    target.write_bytes(b'{"a": \xff')
    with pytest.raises(UserError, match=f"{target} is not readable as JSON"):
        read_json(target)


@pytest.mark.timeout(30)  # where a pipe is waited for, it is for ever
def test_a_pipe_a_device_and_an_enormous_file_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(files.MOST_JSON + 1)
    for name, sentence in (("pipe", "is a pipe or a device"), ("device", "is a pipe or a device"), ("sparse", "bytes")):
        with pytest.raises(UserError, match=f"^{tmp_path / name} .*{sentence}.*, expected "):
            read_json(tmp_path / name)
    for name in ("pipe", "device"):
        with pytest.raises(OSError):
            hash_file(tmp_path / name)
    (tmp_path / "file").write_bytes(b"123")
    assert files.read_regular(tmp_path / "file", 3) == b"123"
    with pytest.raises(files.LargeFileError, match="has 3 bytes, expected 2 at most"):
        files.read_regular(tmp_path / "file", 2)
    with pytest.raises(IsADirectoryError):
        files.read_regular(tmp_path, 2)


@given(st.text(st.sampled_from('a\r\n\ufeff\u2028\x85,"'), max_size=12), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_a_text_is_read_as_python_reads_one(own_cache: Path, text: str, encoding: str) -> None:
    path = own_cache / "text.txt"
    path.write_bytes(text.encode())
    assert files.read_text(path, 99, encoding) == path.read_text(encoding=encoding)


def test_a_file_of_ones_own_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    for name, to in (("a", "there"), ("b", "absent")):
        (tmp_path / name).symlink_to(to)
        with pytest.raises(UserError, match=f"{tmp_path / name} is a link, expected a file of its own"):
            files.own(str(tmp_path / name), os.O_RDWR | os.O_CREAT)
    assert not (tmp_path / "absent").exists()
    with open(tmp_path / "new", "a+", opener=files.own) as file:
        file.write("x")
    assert (tmp_path / "new").stat().st_mode & 0o111 == 0


def test_space_is_asked_for_before_work_begins(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1, "a cache")
    with pytest.raises(UserError, match=r"a cache needs 1000000000000 MB in .*not.yet"):
        require_space(tmp_path / "not" / "yet", 10**18, "a cache")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("BENCH_CACHE", "/b")
    assert cache_directory() == Path("/b")
    monkeypatch.delenv("BENCH_CACHE")
    assert cache_directory() == Path("/x/draw-bench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache/draw-bench"


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_hashes_are_equal_only_for_equal_parts(a: list[bytes], b: list[bytes]) -> None:
    assert (hash_bytes(*a) == hash_bytes(*b)) == (a == b)


@pytest.mark.parametrize("shape", [(), (3,), (4, 2, 2), (0, 8, 8, 3)])
def test_an_array_is_hashed_as_its_bytes_are(shape: tuple[int, ...]) -> None:
    for kind in (np.uint8, np.float32):
        array = np.arange(np.prod(shape), dtype=kind).reshape(shape)
        assert hash_bytes("a", array.reshape(-1).data) == hash_bytes("a", array.tobytes())


def test_a_files_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc" * 100_000)
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert hash_bytes("é") == hash_bytes("é".encode())


# seeds and randomness


@given(st.integers(0, 2**32), st.text(max_size=8), st.integers(0, 10**9))
def test_a_stream_is_named_by_all_of_seed_purpose_and_step(seed: int, purpose: str, step: int) -> None:
    value = derive(seed, purpose, step)
    assert 0 <= value < 2**63
    others = {derive(seed + 1, purpose, step), derive(seed, purpose + "x", step), derive(seed, purpose, step + 1)}
    assert value == derive(seed, purpose, step)
    assert value not in others | {derive(seed, purpose)}
    assert len(others) == 3


def test_streams_are_the_same_on_every_machine() -> None:
    expected = int.from_bytes(hashlib.sha256(b"7/noise/3").digest()[:8], "big") >> 1
    assert derive(7, "noise", 3) == expected


def test_generators_are_fresh_independent_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.randn(4000, generator=generator(0, "noise", 1))
    assert torch.equal(first, torch.randn(4000, generator=generator(0, "noise", 1)))
    other = torch.randn(4000, generator=generator(0, "noise", 2))
    # Of independent normal draws the correlation has standard deviation 1 / sqrt(4000) = 0.016.
    assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.08
    assert torch.equal(torch.get_rng_state(), before)


# the guard


def test_the_guard_lets_torchvision_import_and_is_idempotent() -> None:
    code = (
        "import bench.torchvision_guard as g; declared = g.guard(); assert g.guard() == declared\n"
        "import torchvision, torchvision.transforms, torch\n"
        "assert hasattr(torch.ops.torchvision, 'nms'); assert not declared or torch.version.cuda is None"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_guard_keeps_away_from_a_cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_guard, "_declared", [])
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert torchvision_guard.guard() is False
    assert torchvision_guard._declared == []
