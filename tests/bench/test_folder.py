"""An image folder with everything wrong in it gives its good pictures, and counts the rest."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from bench import files
from bench.config import DataConfig
from bench.data import listed, pictures
from bench.data.folder import Folder
from bench.data.pictures import inspect
from bench.data.splits import assign, named_split
from bench.errors import UserError
from bench.files import cache_directory

LONG_AGO = 1_000_000_000 * 10**9  # ns; verdicts on files changed just now are not kept


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def paint(path, seed, mode="RGB", size=(20, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


def describe(folder, rows, column="text"):
    lines = [row if isinstance(row, str) else json.dumps({"file_name": row[0], column: row[1]}) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build(folder, split="train", **options):
    return Folder.build(DataConfig(name="folder", path=str(folder), size=8, **options), split)


def keys(data):
    return sorted(item.key for item in data.first(10_000))


@pytest.fixture
def messy(tmp_path):
    """One good picture in each split's folder, and every kind of bad row under train/."""
    for split in ("train", "validation", "test"):
        paint(tmp_path / split / "good.png", 1)
    for name, mode in {"grey": "L", "alpha": "RGBA", "flat": "P"}.items():
        paint(tmp_path / "train" / f"{name}.png", 2, mode)
    paint(tmp_path / "train/long.png", 3)
    paint(tmp_path / "train/mute.png", 4)
    paint(tmp_path.parent / "outside.png", 5)
    (tmp_path / "train/torn.png").write_bytes((tmp_path / "train/good.png").read_bytes()[:300])
    (tmp_path / "train/text.png").write_text("no picture")
    rows: list[object] = [(f"{split}/good.png", "good") for split in ("train", "validation", "test")]
    rows += [(f"train/{name}.png", name) for name in ("grey", "alpha", "flat", "torn", "text", "absent")]
    rows += [
        ("train/long.png", "x" * 2000), ("train/mute.png", " \n "), ("train/mute.png", None), ("train/mute.png", True),
        ("../outside.png", "out"), ("train/../../outside.png", "out"), (str(tmp_path.parent / "outside.png"), "out"),
        ("..\\outside.png", "out"), (None, "nameless"), ("train/nul\0.png", "nul"), "{broken", "[]",
        ("train/good.png", "good again"),
    ]  # fmt: skip
    describe(tmp_path, rows)
    return tmp_path


def test_bad_rows_are_counted_and_left_out(messy):
    data = build(messy)
    assert keys(data) == [f"train/{name}.png" for name in ("alpha", "flat", "good", "grey", "long")]
    assert data.exclusions == {
        "missing image file": 1,
        "unreadable image file": 1,
        "corrupt image": 2,
        "empty caption": 1,
        "path outside the folder": 4,
        "no file_name": 1,
        "malformed metadata line": 2,
        "file_name repeated: captions joined": 3,
        "caption over 1000 characters (kept)": 1,
        "grey converted to RGB": 1,
        "transparency put on white": 1,
        "palette converted to RGB": 1,
    }
    captions = {sample.key: sample.captions for sample in data.first(99)}
    assert captions["train/good.png"] == ("good", "good again")
    assert captions["train/long.png"] == ("x" * 2000,)
    assert keys(build(messy, "validation")) == ["validation/good.png"]


def test_a_caption_in_csv_may_hold_whatever_a_text_can(tmp_path):
    captions = ["one\u2028line", "a\x85b\x0bc\x1cd", 'two\nlines, "quoted"']
    names = [*(f"train/{place}.png" for place in range(3)), "test/t.png", "validation/v.png"]
    for place, name in enumerate(names):
        paint(tmp_path / name, place)
    with (tmp_path / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *zip(names, [*captions, "t", "v"], strict=True)])
    found = {sample.key: sample.caption for sample in build(tmp_path).first(9)}
    assert found == {name: " ".join(caption.split()) for name, caption in zip(names, captions, strict=False)}


def test_a_number_is_a_caption(tmp_path):
    paint(tmp_path / "train" / "seven.png", 1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/seven.png", "text": 7}\n')
    assert build(tmp_path).first(1)[0].caption == "7"


def test_what_a_table_has_for_nothing_is_no_caption(tmp_path):
    """pandas' NaN, which Python's JSON reads: it neither is the caption "nan" nor hides one in another column."""
    for number in range(3):
        paint(tmp_path / "train" / f"{number}.png", number)
    lines = ['"text": NaN', '"text": NaN, "caption": "a lamp"', '"text": "a cup"']
    rows = (f'{{"file_name": "train/{number}.png", {line}}}' for number, line in enumerate(lines))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    data = build(tmp_path)
    assert {each.caption for each in data.first(9)} == {"a lamp", "a cup"} and data.exclusions["empty caption"] == 1


def test_one_picture_under_several_names_is_one(tmp_path):
    for number in range(160):
        paint(tmp_path / f"{number}.png", number // 2)
    describe(tmp_path, [(f"{number}.png", f"number {number}") for number in range(160)])
    found = {split: build(tmp_path, split).first(200) for split in ("train", "validation", "test")}
    every = sorted(sorted(each.captions) for own in found.values() for each in own)
    assert every == sorted(sorted([f"number {2 * i}", f"number {2 * i + 1}"]) for i in range(80))


def test_metadata_that_nobody_would_read_is_refused(tmp_path):
    row = '{"file_name": "a.png", "text": "a"}\n'
    for split in ("train", "eval"):
        paint(tmp_path / split / "a.png", 1)
        (tmp_path / split / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match="eval is named like no split, and holds metadata: expected one of train, "):
        build(tmp_path)
    (tmp_path / "eval" / "metadata.jsonl").unlink()
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\na.png,a\n")
    with pytest.raises(UserError, match="train has both metadata.jsonl and metadata.csv: keep one"):
        build(tmp_path)
    (tmp_path / "train" / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(row)
    with pytest.raises(UserError, match=r"metadata.jsonl is not the only metadata: .*train.metadata.jsonl is there"):
        build(tmp_path)


def test_csv_sub_folders_and_the_caption_column(tmp_path):
    for split in ("train", "val", "test"):
        paint(tmp_path / split / "a b.png", 1)
        (tmp_path / split / "metadata.csv").write_text('\ufefffile_name,caption\na b.png,"a cat, asleep"\n', "utf-8")
    found = {split: build(tmp_path, split).first(9) for split in Folder.splits}
    assert {split: [sample.key for sample in each] for split, each in found.items()} == {
        "train": ["train/a b.png"], "validation": ["val/a b.png"], "test": ["test/a b.png"]
    }  # fmt: skip
    assert all(each[0].caption == "a cat, asleep" for each in found.values())


def test_splits_that_the_source_lacks_are_carved_out_of_training():
    names = [f"{i}.png" for i in range(2000)]
    unsplit = {name: assign(name, None, (), seed=0) for name in names}
    with_test = {name: assign(name, "train", {"train", "test"}, seed=0) for name in names}
    counts = {split: list(unsplit.values()).count(split) for split in ("train", "validation", "test")}
    assert counts == pytest.approx({"train": 1800, "validation": 100, "test": 100}, abs=40)
    assert set(with_test.values()) == {"train", "validation"}
    assert all(with_test[name] == unsplit[name] for name in names if unsplit[name] != "test")
    assert assign("x", "test", {"train", "test"}, seed=0) == "test"
    assert all(assign(name, "train", {"train", "test", "validation"}, seed=0) == "train" for name in names)


def test_words_that_name_a_split():
    named = {"cc-val-003.tar": "validation", "train/000.tar": "train", "contest-1.tar": None, "TEST_0": "test"}
    assert {name: named_split(name) for name in named} == named


def test_adding_pictures_moves_none_to_another_split(tmp_path):
    rows = [(f"{i}.png", f"number {i}") for i in range(60)]
    for number, (name, _) in enumerate(rows):
        paint(tmp_path / name, number, size=(8, 8))
    describe(tmp_path, rows[:40])
    before = {split: keys(build(tmp_path, split)) for split in ("train",)}
    describe(tmp_path, rows)
    assert set(before["train"]) == set(keys(build(tmp_path))) & {name for name, _ in rows[:40]}


def test_a_picture_that_vanishes_is_replaced_and_counted_once(tmp_path):
    for split in ("train", "validation", "test"):
        for i in range(3):
            paint(tmp_path / split / f"{i}.png", i)
    describe(tmp_path, [(f"{split}/{i}.png", str(i)) for split in ("train", "validation", "test") for i in range(3)])
    data = build(tmp_path)
    order = [sample.key for sample in data.first(3)]
    (tmp_path / order[1]).unlink()
    assert [sample.key for sample in data.first(3)] == [order[0], order[2], order[2]]
    assert data[1].key == order[2]
    reason = "broke during the run, replaced by the next sample: missing image file"
    assert data.exclusions == {reason: 1}
    for key in (order[0], order[2]):
        (tmp_path / key).unlink()
    with pytest.raises(UserError, match="every picture of .* has become unreadable"):
        data[0]


def test_verdicts_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    for split in ("train", "validation", "test"):
        paint(tmp_path / split / "a.png", 1)
    describe(tmp_path, [(f"{split}/a.png", "a") for split in ("train", "validation", "test")])
    looked: list[int] = []

    def counted(data):
        looked.append(len(data))
        return inspect(data)

    monkeypatch.setattr(listed, "inspect", counted)
    before = build(tmp_path).content_hash()
    assert build(tmp_path).content_hash() == before and len(looked) == 1
    paint(tmp_path / "train/a.png", 2)
    os.utime(tmp_path / "train/a.png", ns=(LONG_AGO + 1, LONG_AGO + 1))
    assert build(tmp_path).content_hash() != before and len(looked) == 2
    os.utime(tmp_path / "train/a.png")  # changed just now: may change again unseen
    assert [build(tmp_path).content_hash() for _ in range(2)] and len(looked) == 4
    for stored in (cache_directory() / "verdicts").iterdir():
        stored.write_text('{"torn": ')
    build(tmp_path)


def test_what_could_not_be_read_once_is_tried_again(tmp_path, monkeypatch):
    for split in ("train", "validation", "test"):
        for name in "ab":
            paint(tmp_path / split / f"{name}.png", ord(name))
    splits = ("train", "validation", "test")
    describe(tmp_path, [(f"{split}/{name}.png", name) for split in splits for name in "ab"])
    (tmp_path / "train" / "b.png").write_bytes(b"no picture")
    os.utime(tmp_path / "train/b.png", ns=(LONG_AGO, LONG_AGO))
    whole = files.read_regular

    def busy(path, most):
        if path.name == "a.png":
            raise OSError("a server is down")
        return whole(path, most)

    monkeypatch.setattr(pictures, "read_regular", busy)
    with pytest.raises(UserError, match="unreadable image file: 1"):
        build(tmp_path)
    monkeypatch.setattr(pictures, "read_regular", whole)
    assert [sample.key for sample in build(tmp_path).first(2)] == ["train/a.png"]
    looked = []
    monkeypatch.setattr(listed, "inspect", lambda data: looked.append(data))
    assert build(tmp_path).exclusions == {"corrupt image": 1} and looked == []  # that verdict stands


def test_a_character_that_utf8_lacks_is_replaced_in_captions():
    assert listed.clean_captions(["a \udcff cat", "\ud83d\ude00", "\ufeffplain"]) == (
        "a \ufffd cat", "\U0001f600", "\ufeffplain",
    )  # fmt: skip


def beside(folder, texts):
    """A picture, and beside it its text, by name."""
    for number, (name, text) in enumerate(texts.items()):
        path = paint(folder / name, number)
        if text is not None:
            path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_captions_beside_pictures_without_metadata(tmp_path):
    texts = {
        "train/a.png": "\ufeffa red\n lamp ", "train/deep/b.c.JPG": "a cup", "train/mute.png": None,
        "train/empty.webp": " \n", "train/torn.png": b"\xff\xfe\x00", "train/.hidden.png": "hidden",
        "train/.trash/a.png": "hidden", "val/a.png": "held out", "test/a.png": "held out", "test/alone.png": None,
    }  # fmt: skip
    beside(tmp_path, texts)
    (tmp_path / "train" / "deep" / "b.c.txt").rename(tmp_path / "train" / "deep" / "b.c.TXT")
    (tmp_path / "train" / "LICENSE.txt").write_text("of nothing")
    data = build(tmp_path)
    assert {sample.key: sample.captions for sample in data.first(9)} == {
        "train/a.png": ("a red lamp",), "train/deep/b.c.JPG": ("a cup",)
    }  # fmt: skip
    assert data.exclusions == {
        "picture without a caption file": 1, "empty caption": 1, "caption that is not UTF-8": 1,
        "caption file without a picture": 1,
    }  # fmt: skip
    assert keys(build(tmp_path, "validation")) == ["val/a.png"]


def test_the_hash_follows_captions_beside_pictures(tmp_path):
    beside(tmp_path, {f"{split}/{n}.png": f"{n}" for n in "ab" for split in ("train", "validation", "test")})
    before = {split: build(tmp_path, split).content_hash() for split in Folder.splits}
    text, stamp = tmp_path / "train" / "a.txt", (tmp_path / "train" / "a.png").stat()
    text.write_text("c")  # as long as before; the picture is untouched
    os.utime(text, ns=(LONG_AGO, LONG_AGO))
    after = {split: build(tmp_path, split).content_hash() for split in Folder.splits}
    assert [split for split in Folder.splits if before[split] != after[split]] == ["train"]
    assert (tmp_path / "train" / "a.png").stat() == stamp
    assert {sample.caption for sample in build(tmp_path).first(9)} == {"c", "b"}
    text.write_text("a")
    assert build(tmp_path).content_hash() == before["train"]


def test_metadata_goes_before_captions_beside_pictures(tmp_path):
    beside(tmp_path, {f"{split}/{n}.png": "beside" for n in "ab" for split in ("train", "validation", "test")})
    describe(tmp_path, [(f"{split}/a.png", "listed") for split in ("train", "validation", "test")])
    data = build(tmp_path)
    assert [(sample.key, sample.caption) for sample in data.first(9)] == [("train/a.png", "listed")]
    assert data.exclusions == {}


def test_a_flat_folder_with_captions_beside_its_pictures_is_split_as_any(tmp_path):
    beside(tmp_path, {f"{n}.png": f"number {n}" for n in range(160)})
    found = {split: keys(build(tmp_path, split)) for split in Folder.splits}
    assert sorted(name for names in found.values() for name in names) == sorted(f"{n}.png" for n in range(160))
    assert len(found["train"]) > 120 and found["validation"] and found["test"]


def test_refusals_say_what_is_expected(tmp_path):
    for path, message in [
        (None, "needs --data.path"), (tmp_path / "absent", "no such folder"), (tmp_path, "expected metadata.jsonl")
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            Folder.build(DataConfig(name="folder", path=path and str(path)), "train")
    paint(tmp_path / "train" / "a.png", 1)
    (tmp_path / "train" / "b.txt").write_text("of another")
    with pytest.raises(UserError, match="; or a caption NAME.txt beside NAME.png"):
        build(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"image": "a.png", "text": "a"}\n')
    with pytest.raises(UserError, match="needs the columns file_name and text, and has: image, text"):
        build(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="can't be read"):
        build(tmp_path)
    describe(tmp_path, [(f"{i}.png", "absent") for i in range(50)])
    with pytest.raises(UserError, match=r"no usable picture for split 'train' .*missing image file: \d+"):
        build(tmp_path)


@pytest.mark.parametrize(("kind", "text", "message"), [
    ("csv", "file_name,text\na.png,a,\n\nb.png,a cat, asleep\n", "line 4: it has 3 fields, expected 2: put quotes"),
    ("csv", "file_name,text,text\na.png,a,b\n", "line 1: it has two columns named text"),
    ("csv", 'file_name,text\na.png,"a cat\nb.png,b\n', "line 2: unexpected end of data: is a quote unclosed"),
    ("jsonl", '[\n{"file_name": "a"},\n{"file_name": "b"}\n]', "is one JSON array: expected one JSON object"),
    ("jsonl", '{\n"file_name": "a",\n"text": "b"\n}\n', "has no line that is a JSON object: expected one"),
])  # fmt: skip
def test_metadata_that_is_no_table_is_refused(tmp_path, kind, text, message):
    (tmp_path / f"metadata.{kind}").write_text(text)
    with pytest.raises(UserError, match=message):
        build(tmp_path)


@pytest.mark.timeout(60)  # where a pipe is waited for, it is for ever
def test_pipes_devices_and_enormous_files_are_counted(tmp_path, monkeypatch):
    texts = {f"{split}/{n}.png": n for n in "abcde" for split in ("train", "validation", "test")}
    beside(tmp_path, texts)
    train = tmp_path / "train"
    for name in ("a.png", "d.txt"):
        (train / name).unlink()
        os.mkfifo(train / name)
    (train / "b.png").unlink()
    (train / "b.png").symlink_to("/dev/zero")
    for name, size in (("c.png", pictures.MAX_BYTES + 1), ("e.txt", listed.MAX_CAPTIONS + 1)):
        with (train / name).open("r+b") as file:
            file.truncate(size)
    paint(train / "good.png", 77).with_suffix(".txt").write_text("good")
    data = build(tmp_path)
    assert keys(data) == ["train/good.png"]
    assert data.exclusions == {"unreadable image file": 2, "image too large": 1, "empty caption": 2}
    (train / "good.png").unlink()
    os.mkfifo(train / "good.png")
    with pytest.raises(UserError, match="has become unreadable during the run"):
        data.first(1)


def test_enormous_metadata_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "metadata.jsonl").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=f"^{tmp_path / 'metadata.jsonl'} has 1,099,511,627,776 bytes, expected "):
        build(tmp_path)


LATIN = "caf\udce9"  # as Python has the bytes of a name that are no UTF-8


def test_names_that_are_no_utf8_are_read_and_written_out(tmp_path):
    root = tmp_path / LATIN
    for split in ("train", "validation", "test"):
        for name in (f"{LATIN}.png", "plain.png"):
            paint(root / split / name, len(split) + len(name)).with_suffix(".txt").write_text("a cup")
    found = {split: keys(build(root, split)) for split in Folder.splits}
    assert found == {split: [f"{split}/caf\\udce9.png", f"{split}/plain.png"] for split in Folder.splits}
    (told := tmp_path / "told").mkdir()
    paint(told / f"{LATIN}.png", 0)
    describe(told, [(f"{LATIN}.png", "a cup")])
    told_of = [key for split in Folder.splits for key in _keys_or_none(told, split)]
    assert told_of == ["caf\\udce9.png"]


def _keys_or_none(folder, split):
    try:
        return keys(build(folder, split))
    except UserError:
        return []


def test_a_name_with_backslashes_is_a_path_where_no_file_has_it(tmp_path):
    for split in ("train", "validation", "test"):
        paint(tmp_path / split / "0.png", len(split))
    paint(tmp_path / "train\\1.png", 1)
    rows = [(f"{split}\\0.png", "a cup") for split in ("train", "validation", "test")]
    describe(tmp_path, [*rows, ("train\\1.png", "a jug"), ("..\\x.png", "no")])
    data = build(tmp_path)
    assert keys(build(tmp_path, "test")) == ["test/0.png"] and "train/0.png" in keys(data)
    assert data.exclusions["path outside the folder"] == 1 and not data.exclusions["missing image file"]


def test_every_kind_of_picture_may_stand_beside_its_caption(tmp_path):
    kinds = ("jpg", "png", "webp", "bmp", "gif", "tif")
    for split in ("train", "validation", "test"):
        for seed, kind in enumerate(kinds):
            paint(tmp_path / split / f"{kind}.{kind}", seed + 10 * len(split)).with_suffix(".txt").write_text("a cup")
    assert keys(build(tmp_path)) == sorted(f"train/{kind}.{kind}" for kind in kinds)


def test_what_is_no_utf8_is_told_apart_from_what_is_empty(tmp_path):
    for split in ("train", "validation", "test"):
        for seed, text in enumerate((b"a cup", "a caf\u00e9".encode("latin-1"), b" ")):
            paint(tmp_path / split / f"{seed}.png", seed + 10 * len(split)).with_suffix(".txt").write_bytes(text)
    data = build(tmp_path)
    assert data.exclusions == {"caption that is not UTF-8": 1, "empty caption": 1} and len(data) == 1


def test_a_split_that_nothing_falls_into_says_so_whatever_else_was_left_out(tmp_path):
    paint(tmp_path / "0.png", 0).with_suffix(".txt").write_text("a cup")
    (tmp_path / "LICENSE.txt").write_text("mine")
    lacking = next(split for split in ("validation", "test") if not _keys_or_none(tmp_path, split))
    with pytest.raises(UserError, match=f"split '{lacking}' .*none falls into it.*caption file without a picture: 1"):
        build(tmp_path, lacking)
