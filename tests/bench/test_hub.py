"""Hugging Face datasets from disk, and one-sentence refusals where the package, the hub or the columns lack."""

from __future__ import annotations

import importlib.util
import io
import sys

import numpy as np
import pytest
from PIL import Image

from bench.config import DataConfig
from bench.data import catalogue, hub
from bench.data.hub import Hub
from bench.errors import UserError

datasets = pytest.importorskip("datasets", reason="the package datasets is missing")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "hf"))
    datasets.disable_progress_bars()


def encode(seed, mode="RGB", kind="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def table(captions, pictures=None, column="text", kind=None, **more):
    pictures = pictures or [encode(i) for i in range(len(captions))]
    features = datasets.Features(
        {"id": datasets.Value("int64"), "photo": datasets.Image(), column: kind or datasets.Value("string")}
        | {name: datasets.Value("string") for name in more}
    )
    columns = {"id": list(range(len(captions))), "photo": pictures, column: captions, **more}
    return datasets.Dataset.from_dict(columns, features=features)


def saved(tmp_path, **tables):
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def build(path, split="train", **options):
    return Hub.build(DataConfig(name="hub", path=str(path), size=8, **options), split)


def test_bad_rows_are_counted(tmp_path, monkeypatch):
    pictures = [
        encode(0), encode(1, "L"), encode(2, "RGBA"), {"bytes": b"torn", "path": None}, None, encode(5), encode(6),
        {"bytes": None, "path": str(tmp_path / "absent.png")},
    ]  # fmt: skip
    captions = ["zero", "one", "two", "torn", "none", "", None, "absent"]
    (tmp_path / "absent.png").write_bytes(encode(7)["bytes"])
    opened = {"train": table(captions, pictures), "validation": table(["v"]), "test": table(["t"])}
    (tmp_path / "absent.png").unlink()
    monkeypatch.setattr(hub, "_open", lambda source: opened)
    path = tmp_path
    data = build(path)
    assert {sample.key: sample.captions for sample in data.first(9)} == {
        "train/0": ("zero",), "train/1": ("one",), "train/2": ("two",)
    }  # fmt: skip
    assert data.exclusions == {
        "corrupt image": 1, "missing image": 1, "empty caption": 2, "missing image file": 1,
        "grey converted to RGB": 1, "transparency put on white": 1,
    }  # fmt: skip
    assert build(path).content_hash() == data.content_hash()
    assert [sample.caption for sample in build(path, "test").first(9)] == ["t"]


def test_a_single_table_is_split_by_picture_however_many_rows_have_it(tmp_path):
    """One row a caption, as COCO is often stored: a picture is one item of one split, with the captions of all."""
    rows = [(f"{word} {i}", encode(i)) for word in ("see", "this is") for i in range(60)]
    table([text for text, _ in rows], [each for _, each in rows]).save_to_disk(str(tmp_path / "one"))
    data = {split: build(tmp_path / "one", split) for split in Hub.splits}
    found = {split: [each.captions for each in own.first(99)] for split, own in data.items()}
    assert sorted(sorted(texts) for each in found.values() for texts in each) == sorted(
        [f"see {i}", f"this is {i}"] for i in range(60)
    )
    assert len(found["train"]) > 45 and found["validation"] and found["test"]
    assert sum(own.exclusions["the same picture again: captions joined"] for own in data.values()) == 60


@pytest.mark.parametrize("bound", [12, 30])
def test_a_bound_is_of_pictures_each_with_all_its_captions(tmp_path, bound):
    words = ("see", "this is", "here is", "look at", "a")
    rows = [(f"{word} {i}", encode(i)) for word in words for i in range(60)]
    path = saved(tmp_path, train=table([text for text, _ in rows], [each for _, each in rows]),
                 validation=table(["v"], [encode(70)]), test=table(["t"], [encode(80)]))  # fmt: skip
    first, again = build(path, train_items=bound), build(path, train_items=bound)
    for data in (first, again):  # the second from what was judged before
        assert len(data) == bound and {len(sample.captions) for sample in data.first(99)} == {len(words)}
    assert first.content_hash() == again.content_hash() and first.exclusions == again.exclusions
    whole = build(path, train_items=60)  # of which some had been beyond the bound
    assert len(whole) == 60 and {len(sample.captions) for sample in whole.first(99)} == {len(words)}
    assert {sample.key for sample in first.first(99)} <= {sample.key for sample in whole.first(99)}


def test_shards_as_the_hub_serves_them_have_their_captions_found(tmp_path):
    one = {name: table(["a cup"], [encode(i)], column="txt", __key__=["7"], __url__=["hf://x"])
           for i, name in enumerate(("train", "validation", "test"))}  # fmt: skip
    assert build(saved(tmp_path, **one)).first(1)[0].caption == "a cup"


def test_a_split_may_have_its_name_among_other_words(tmp_path):
    path = saved(
        tmp_path, train2017=table(["a", "b"]), val2017=table(["c"], [encode(7)]), test_clean=table(["d"], [encode(8)])
    )
    found = {split: {each.caption for each in build(path, split).first(9)} for split in Hub.splits}
    assert found == {"train": {"a", "b"}, "validation": {"c"}, "test": {"d"}}


def test_a_local_folder_is_read_as_load_dataset_reads_it(tmp_path):
    for split in ("train", "validation", "test"):
        folder = tmp_path / "local" / split
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(encode(3)["bytes"])
        (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "an a"}\n')
    (sample,) = build(tmp_path / "local").first(2)
    assert sample.caption == "an a"
    assert sample.image.shape == (8, 8, 3)


def test_the_caption_column_is_found(tmp_path):
    listed = table([["a", "b", "a"], ["c"]], column="sentences_raw", kind=datasets.List(datasets.Value("string")))
    data = build(saved(tmp_path / "listed", train=listed, validation=listed, test=listed))
    assert {sample.captions for sample in data.first(9)} == {("a", "b"), ("c",)}
    named = table(["right"], column="caption", url=["wrong"])
    assert build(saved(tmp_path / "named", train=named, test=named, validation=named)).first(1)[0].caption == "right"
    only = table(["right"], column="beschreibung")
    assert build(saved(tmp_path / "only", train=only, test=only, validation=only)).first(1)[0].caption == "right"


def test_columns_that_cannot_be_told_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"no column named text or caption.*photo \(Image\), url \(text\), licence"):
        build(saved(tmp_path / "two", train=table(["a"], column="url", licence=["b"])))
    plain = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(UserError, match=r"no image column; its columns are: text \(text\)"):
        build(saved(tmp_path / "plain", train=plain))


@pytest.mark.parametrize("column", ["url", "image_url", "file_name", "ID"])
def test_a_lone_text_column_that_holds_no_captions_is_not_taken(tmp_path, column):
    with pytest.raises(UserError, match="no column named text or caption"):
        build(saved(tmp_path, train=table(["a"], column=column)))


def test_of_several_image_columns_the_one_named_image_is_taken(tmp_path):
    one = table(["a"]).add_column("image", [encode(9)], feature=datasets.Image())
    taken = build(saved(tmp_path / "one", train=one, validation=one, test=one)).first(1)[0].image
    only = one.remove_columns("photo")
    assert (taken == build(saved(tmp_path / "only", train=only, validation=only, test=only)).first(1)[0].image).all()
    two = one.rename_columns({"photo": "mask", "image": "source"})
    with pytest.raises(UserError, match="2 image columns: mask, source; expected one, or one that is named image or"):
        build(saved(tmp_path / "two", train=two))


@pytest.mark.parametrize(("column", "wanted"), [("text", "text"), ("photo", "pictures")])
def test_a_split_without_a_column_is_named(tmp_path, column, wanted):
    lacking = table(["b"]).remove_columns(column)
    with pytest.raises(UserError, match=f"split test has no column {column} of {wanted}, .*; its columns are: id "):
        build(saved(tmp_path, train=table(["a"]), test=lacking))


def test_an_unreachable_hub_is_said_in_one_sentence_and_at_once(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    class NoRoute:
        def head(self, *arguments, **options):
            raise OSError("unreachable")

    monkeypatch.setattr(huggingface_hub, "get_session", NoRoute)
    with pytest.raises(UserError, match="nobody/nothing can't be reached .*: the hub does not answer") as caught:
        build("nobody/nothing")
    assert "\n" not in str(caught.value)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install '\.\[data\]'"):
        build("owner/name")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find(name))
    with pytest.raises(UserError, match=r"can't run here: .*pip install"):
        catalogue.check_data(DataConfig(name="hub", path="owner/name"))


@pytest.mark.parametrize("path", ["./absent", "/absent", "a/b/c", "has space", "~nobody/x", "owner/name:"])
def test_what_can_be_no_hub_id(path):
    with pytest.raises(UserError, match="no such folder, and no hub id"):
        build(path)
