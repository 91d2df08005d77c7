"""Tar shards: whole samples are used whatever is broken around them; ranks share shards; a resumed stream goes on."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from bench.config import DataConfig
from bench.data import webdataset
from bench.data.sources import braces
from bench.data.webdataset import WebDataset
from bench.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(seed, kind="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def samples(count, base=0):
    for i in range(base, base + count):
        yield f"{i:06d}.png", picture(i)
        yield f"{i:06d}.txt", f"number {i}".encode()


def build(path, split="train", **options):
    return WebDataset.build(DataConfig(name="webdataset", path=str(path), size=8, **options), split)


def keys(data):
    return [sample.key for sample in data.first(10_000)]


@pytest.fixture
def uneven(tmp_path):
    """Four training shards of 3, 5, 2 and 6 samples, and a shard for each other split."""
    base = 0
    for i, count in enumerate((3, 5, 2, 6)):
        shard(tmp_path / f"train-{i:03d}.tar", samples(count, base))
        base += count
    shard(tmp_path / "val-000.tar", samples(2, 100))
    shard(tmp_path / "test-000.tar", samples(2, 200))
    return tmp_path


def test_braces():
    assert braces("s-{000..002}.tar") == ["s-000.tar", "s-001.tar", "s-002.tar"]
    assert braces("{a,b}-{9..10}") == ["a-9", "a-10", "b-9", "b-10"]
    assert braces("plain.tar") == ["plain.tar"]
    with pytest.raises(UserError, match="million"):
        braces("{0..99999999}")


def test_patterns_globs_and_folders_name_the_same_shards(uneven):
    expected = keys(build(uneven))
    assert len(expected) == 16
    assert keys(build(uneven / "train-{000..003}.tar", train_items=16))[:1] in [[key] for key in expected]
    assert set(keys(build(uneven / "train-*.tar"))) <= set(expected)
    assert sorted(keys(build(uneven, "validation"))) == ["val-000.tar/000100", "val-000.tar/000101"]


def test_bad_samples_are_counted(tmp_path):
    members = [
        *samples(1),
        ("lonely.png", picture(1)),
        ("silent.txt", b"no picture"),
        ("torn.jpg", picture(2, "JPEG")[:200]), ("torn.txt", b"torn"),
        ("mute.png", picture(3)), ("mute.txt", b"  "),
        ("latin.png", picture(4)), ("latin.txt", b"\xff\xfe"),
        ("list.png", picture(5)), ("list.json", b"[1]"),
        ("broken.png", picture(6)), ("broken.json", b"{"),
        ("./dir/a.JPG", picture(7, "JPEG")), ("./dir/a.json", json.dumps({"caption": "an a", "text": "b"}).encode()),
        ("two.webp", picture(8, "WEBP")), ("two.json", json.dumps({"captions": ["one", "two"]}).encode()),
        ("odd.cls", b"7"), (".hidden.png", picture(9)),
    ]  # fmt: skip
    shard(tmp_path / "train.tar", members)
    shard(tmp_path / "val.tar", samples(1, 50))
    shard(tmp_path / "test.tar", samples(1, 60))
    data = build(tmp_path)
    assert {sample.key: sample.captions for sample in data.first(9)} == {
        "train.tar/000000": ("number 0",), "train.tar/dir/a": ("an a",), "train.tar/two": ("one", "two")
    }  # fmt: skip
    assert data.exclusions == {
        "sample without a caption file": 1, "sample without a picture": 1, "corrupt image": 1, "empty caption": 3,
        "caption that is not UTF-8": 1,
    }  # fmt: skip


def test_a_tar_cut_anywhere_gives_the_whole_samples_before_the_cut(tmp_path):
    shard(tmp_path / "val.tar", samples(1, 50))
    shard(tmp_path / "test.tar", samples(1, 60))
    path = shard(tmp_path / "train.tar", samples(4))
    whole = path.read_bytes()
    expected = {each.key: each for each in build(tmp_path).first(9)}
    with tarfile.open(path) as tar:
        ends = [member.offset_data + member.size for member in tar if member.name.endswith(".txt")]
        last = tar.offset
    for cut in sorted({*range(600, last, 389), *ends, *(end - 1 for end in ends), last, last + 100}):
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        if not complete:
            with pytest.raises(UserError, match="truncated or damaged tar: 1"):
                build(tmp_path)
            continue
        data = build(tmp_path)
        found = data.first(9)
        assert {each.key for each in found} == set(sorted(expected)[:complete])
        assert all(np.array_equal(each.image, expected[each.key].image) for each in found)
        assert data.exclusions["truncated or damaged tar"] == 1


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(100)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_tar_is_counted(uneven, content):
    (uneven / "train-009.tar").write_bytes(content)
    data = build(uneven)
    assert len(data) == 16 and data.exclusions == {"truncated or damaged tar": 1}


def test_a_shard_that_vanishes_is_replaced(uneven):
    data = build(uneven)
    (uneven / "train-001.tar").unlink()
    found = data.first(16)
    assert len(found) == 16 and not any("train-001" in sample.key for sample in found)
    assert data.exclusions == {"broke during the run, replaced by the next sample: unreadable shard": 5}


def test_sorted_shards_are_all_seen_by_a_split_that_holds_a_part_of_them(tmp_path):
    for number, name in enumerate(("birds", "cats", "dogs")):
        members = ((f"{i}.{kind}", data) for i in range(60)
                   for kind, data in (("png", picture(1000 * number + i)), ("txt", name.encode())))  # fmt: skip
        shard(tmp_path / f"{name}.tar", members)
    for split, bound in (("train", 30), ("test", 6)):
        captions = [each.caption for each in build(tmp_path, split, train_items=30, eval_items=6).first(99)]
        assert len(captions) <= bound and set(captions) == {"birds", "cats", "dogs"}
        assert split == "test" or all(captions.count(name) > 6 for name in ("birds", "cats", "dogs"))


def test_a_base_name_that_comes_twice_keeps_its_first_picture_and_says_so(tmp_path):
    shard(tmp_path / "train.tar", [*samples(2), ("000000.png", picture(7)), ("000000.txt", b"another")])
    data = build(tmp_path)
    assert len(data) <= 2 and data.exclusions["a base name's second picture"] == 1


def test_pictures_whose_base_name_holds_a_dot_are_counted(tmp_path):
    for number, split in enumerate(("val", "test")):
        shard(tmp_path / f"{split}.tar", samples(1, 50 + number))
    dotted = [(f"a/v1.5_{name}", data) for name, data in samples(3)]
    shard(tmp_path / "train.tar", [*samples(2), ("000000.mask.png", picture(7)), *dotted])
    data = build(tmp_path)
    (reason,) = data.exclusions
    assert len(data) == 2 and data.exclusions[reason] == 3 and "base name holds a dot" in reason
    shard(tmp_path / "train.tar", dotted)
    with pytest.raises(UserError, match="base name holds a dot .*: 3"):
        build(tmp_path)


def test_without_named_splits_the_picture_decides(tmp_path):
    shard(tmp_path / "0.tar", ((f"{i}.{kind}", data) for i in range(120) for kind, data in
                               (("png", picture(i)), ("txt", b"x"))))  # fmt: skip
    found = {split: set(keys(build(tmp_path, split))) for split in WebDataset.splits}
    assert all(found.values()) and sum(map(len, found.values())) == 120 == len(set.union(*found.values()))


def test_refusals(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "s-0.tar.gz").write_bytes(b"")
    for path, message in [
        (tmp_path / "empty", "no .tar shards"), (tmp_path / "s-{0..3}.tar", "4 of 4 shards are missing"),
        (tmp_path / "s-*.tar.gz", "not a plain .tar"), ("https://x/s.tar", "download them first"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            build(path)


def headed(path, kind, length, members):
    """A shard of which one member has a header of `length` bytes behind its own, most of them a hole in the file."""
    shard(path, samples(1, 800))
    with path.open("r+b") as file, tarfile.open(path) as tar:
        tar.getmembers()
        file.seek(tar.offset)
        header = tarfile.TarInfo("header")
        header.type, header.size = kind, length
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.seek(-(-length // 512) * 512, 1)
        rest = io.BytesIO()
        with tarfile.open(fileobj=rest, mode="w") as more:
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                more.addfile(entry, io.BytesIO(data))
        file.write(rest.getvalue())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_enormous_header_is_counted_and_not_read(uneven, kind):
    headed(uneven / "train-009.tar", kind, 9 * 2**20, samples(1, 900))
    data = build(uneven)
    assert len(data) == 17 and data.exclusions == {"truncated or damaged tar": 1}
    assert "train-009.tar/000800" in keys(data)


def test_enormous_members_are_counted_and_not_read(uneven, monkeypatch):
    monkeypatch.setattr(webdataset, "MAX_BYTES", 2000)
    monkeypatch.setattr(webdataset, "MAX_CAPTIONS", 300)
    members = [
        ("a.png", picture(901) + bytes(2000)), ("a.txt", b"a"), ("b.png", picture(902)), ("b.txt", b"b" * 301),
        ("c.png", picture(903)), ("c.json", b'{"text": "c"}' + b" " * 300),
        ("d.png", picture(904)), ("d.txt", b"d" * 300),
    ]  # fmt: skip
    shard(uneven / "train-009.tar", members)
    data = build(uneven)
    assert len(data) == 17 and "train-009.tar/d" in keys(data)
    assert data.exclusions == {"image too large": 1, "empty caption": 2}


@pytest.mark.timeout(60)  # where a pipe is waited for, it is for ever
def test_a_shard_that_becomes_a_pipe_is_replaced(uneven):
    data = build(uneven)
    (uneven / "train-001.tar").unlink()
    os.mkfifo(uneven / "train-001.tar")
    assert len(data.first(16)) == 16
    assert data.exclusions == {"broke during the run, replaced by the next sample: unreadable shard": 5}


def test_names_that_are_no_utf8_and_shards_with_brackets_are_read(tmp_path):
    for split in ("train", "val", "test"):
        seed = len(split)
        members = [(f"caf\udce9-{split}.png", picture(seed)), (f"caf\udce9-{split}.txt", b"a cup")]
        shard(tmp_path / f"cats[{split}].tar", members)
    assert keys(build(tmp_path)) == ["cats[train].tar/caf\\udce9-train"]
    alone = {split for split in WebDataset.splits if _has(tmp_path / "cats[train].tar", split)}
    assert alone == {"train"}


def _has(path, split):
    try:
        return bool(keys(build(path, split)))
    except UserError as error:
        assert "no .tar shards" not in str(error)
        return False


def test_a_caption_that_is_no_utf8_is_told_apart_from_an_empty_one(tmp_path):
    for split in ("train", "val", "test"):
        texts = (b"a cup", "a caf\u00e9".encode("latin-1"), b"")
        members = [(f"{i}{kind}", data) for i, text in enumerate(texts)
                   for kind, data in ((".png", picture(i + 10 * len(split))), (".txt", text))]  # fmt: skip
        shard(tmp_path / f"{split}.tar", members)
    assert build(tmp_path).exclusions == {"caption that is not UTF-8": 1, "empty caption": 1}
