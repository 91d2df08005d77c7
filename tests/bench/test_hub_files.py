"""A dataset's folder, which may come from a stranger, reads its own files and the caches', and no others."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.config import DataConfig, TextConfig
from bench.data.hub import Cell, Hub
from bench.data.hub_files import inside, load_folder, roots
from bench.data.pictures import PictureError
from bench.data.text import open_text
from bench.errors import UserError

datasets = pytest.importorskip("datasets", reason="the package datasets is missing")

LINE = json.dumps({"text": "the private line"}) + "\n"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BENCH_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
    datasets.disable_progress_bars()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset's folder, beside a file that is none of its."""
    (tmp_path / "private.jsonl").write_text(LINE)
    made = tmp_path / "set"
    (made / "data").mkdir(parents=True)
    lines = (json.dumps({"text": f"line {number} of the dataset's own"}) for number in range(40))
    (made / "data" / "train.jsonl").write_text("\n".join(lines))
    return made


def describe(folder: Path, **configuration: Any) -> None:
    """A README.md as the hub's datasets have it. JSON is YAML, too."""
    told = json.dumps({"configs": [{"config_name": "default", **configuration}]})
    (folder / "README.md").write_text(f"---\n{told}\n---\n# A dataset\n")


def unread(*_: Any, **__: Any) -> None:
    raise AssertionError("datasets has looked for the files")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def refusal(build: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        build()
    assert "\n" not in str(caught.value)
    return str(caught.value)


OUTSIDE = [
    {"data_files": "../private.jsonl"},
    {"data_files": "data/../../private.jsonl"},
    {"data_files": "..\\private.jsonl"},
    {"data_files": "../*.jsonl"},
    {"data_files": "{}/private.jsonl"},
    {"data_files": "{}/*"},
    {"data_files": "~/private.jsonl"},
    {"data_files": ["data/train.jsonl", "../private.jsonl"]},
    {"data_files": [{"split": "train", "path": "../private.jsonl"}]},
    {"data_files": [{"split": "train", "path": ["data/train.jsonl", "{}/private.jsonl"]}]},
    {"data_files": "https://example.invalid/train.jsonl"},
    {"data_files": "file://{}/private.jsonl"},
    {"data_files": [{"split": "train", "path": "hf://datasets/owner/name/train.jsonl"}]},
    {"data_files": "zip://private.jsonl::{}/private.zip"},
    {"data_dir": ".."},
    {"data_dir": "{}"},
    {"data_dir": "s3://bucket/data"},
]


@pytest.mark.parametrize("configuration", OUTSIDE, ids=lambda each: json.dumps(each))
def test_a_description_that_leads_out_is_refused_before_it_is_followed(
    configuration: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(folder, **json.loads(json.dumps(configuration).replace("{}", str(folder.parent))))
    for name in ("load_dataset", "load_dataset_builder"):
        monkeypatch.setattr(datasets, name, unread)
    text = refusal(lambda: open_text(TextConfig(name="hub", path=str(folder))))
    assert text.startswith(f"text.path {folder} describes its data as '") and "leads outside the folder" in text
    text = refusal(lambda: Hub.build(DataConfig(name="hub", path=str(folder), size=8), "train"))
    assert text.startswith(f"--data.path {folder} describes its data as '") and "leads outside the folder" in text


def test_a_description_beside_the_readme_counts_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(folder, data_files="data/train.jsonl")
    told = {"configs": [{"config_name": "default", "data_files": "../private.jsonl"}]}
    (folder / ".huggingface.yaml").write_text(json.dumps(told))
    monkeypatch.setattr(datasets, "load_dataset_builder", unread)
    assert "'../private.jsonl'" in refusal(lambda: load_folder(folder, "it"))
    (folder / ".huggingface.yaml").unlink()
    os.mkfifo(folder / ".huggingface.yaml")
    assert "is a pipe or a device" in refusal(lambda: load_folder(folder, "it"))


@pytest.mark.parametrize(
    "configuration",
    [
        {"data_files": "data/train.jsonl"},
        {"data_files": "./**/*.jsonl"},
        {"data_files": ["data/*"]},
        {"data_files": [{"split": "train", "path": ["data/*.jsonl"]}]},
        {"data_dir": "data"},
    ],
    ids=lambda each: json.dumps(each),
)
def test_a_description_of_what_lies_in_the_folder_is_followed(configuration: dict[str, Any], folder: Path) -> None:
    describe(folder, **configuration)
    (folder.parent / "link").symlink_to(folder)
    for path in (folder, folder.parent / "link"):
        assert len(open_text(TextConfig(name="hub", path=str(path))).documents("train")) > 30


def link_file(folder: Path) -> None:
    (folder / "data" / "test.jsonl").symlink_to(folder.parent / "private.jsonl")


def link_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)
    describe(folder, data_files="more/private.jsonl")


@pytest.mark.parametrize("link", [link_file, link_folder])
def test_a_link_that_leads_out_is_refused(link: Callable[[Path], None], folder: Path) -> None:
    link(folder)
    text = refusal(lambda: open_text(TextConfig(name="hub", path=str(folder))))
    assert "private.jsonl, which leads" in text or "test.jsonl, which leads outside the folder" in text
    assert "leads outside the folder" in refusal(lambda: Hub.build(DataConfig(name="hub", path=str(folder)), "train"))


def test_links_within_the_folder_and_into_the_cache_are_followed(folder: Path, cache: Path) -> None:
    """A repository's snapshot in the hub's cache is links into the same cache."""
    (folder / "data" / "train.jsonl").rename(folder / "kept")
    (folder / "data" / "train.jsonl").symlink_to("../kept")
    (cache / "hf").mkdir(parents=True)
    (cache / "hf" / "blob").write_text(LINE)
    (folder / "data" / "test.jsonl").symlink_to(cache / "hf" / "blob")
    (item,) = open_text(TextConfig(name="hub", path=str(folder))).documents("test")
    assert item.text == "the private line"


@pytest.mark.parametrize("way", ["split", "table", "absolute table", "link"])
def test_a_saved_dataset_reads_its_own_tables(way: str, tmp_path: Path) -> None:
    """save_to_disk's own description names splits and tables, by paths that may lead anywhere."""
    one, other = tmp_path / "one", tmp_path / "other"
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["own"] * 9})).save_to_disk(one)
    datasets.Dataset.from_dict({"text": ["private"]}).save_to_disk(other)
    table, state = other / "data-00000-of-00001.arrow", one / "train" / "state.json"
    if way == "split":
        (one / "dataset_dict.json").write_text('{"splits": ["../other"]}')
    elif way == "link":
        (one / "train" / table.name).unlink()
        (one / "train" / table.name).symlink_to(table)
    else:
        name = str(table) if way.startswith("absolute") else f"../../other/{table.name}"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_data_files": [{"filename": name}]}))
    assert "leads outside the folder" in refusal(lambda: open_text(TextConfig(name="hub", path=str(one))))
    assert "leads outside the folder" in refusal(lambda: Hub.build(DataConfig(name="hub", path=str(one)), "train"))


def write_rows(file: Path, cells: list[dict[str, Any]]) -> None:
    """A parquet file whose pictures are the cells as they are: datasets would put in what they name."""
    from datasets.arrow_writer import ParquetWriter

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    file.parent.mkdir(exist_ok=True)
    writer = ParquetWriter(features=features, path=str(file), embed_local_files=False)
    for number, cell in enumerate(cells):
        writer.write({"image": cell, "text": f"picture {number}"})
    writer.finalize()
    writer.close()


def test_a_row_reads_no_file_outside_the_folder(tmp_path: Path, cache: Path) -> None:
    folder, private = tmp_path / "set", tmp_path / "private.png"
    places = [private, folder / "own.bin", cache / "hf" / "cached.png"]
    link = folder / "link.bin"  # no data file by its name: only a row leads there
    paths = [*places, link, folder / ".." / "private.png", f"file://{private}", "a\0b"]
    named = {"bytes": picture(0), "path": str(private)}  # the picture is there, and this is but a name for it
    write_rows(folder / "train.parquet", [named, *({"bytes": None, "path": str(path)} for path in paths)])
    for number, split in enumerate(("validation", "test")):
        write_rows(folder / f"{split}.parquet", [{"bytes": picture(10 + number), "path": None}])
    (cache / "hf").mkdir(parents=True)
    for seed, place in enumerate(places, start=1):
        place.write_bytes(picture(seed))
    link.symlink_to(private)
    data = Hub.build(DataConfig(name="hub", path=str(folder), size=8), "train")
    assert {sample.caption for sample in data.first(9)} == {"picture 0", "picture 2", "picture 3"}
    assert data.exclusions == {"path outside the folder": 4, "unreadable image file": 1}


def test_a_verdict_of_before_does_not_let_a_row_out(tmp_path: Path) -> None:
    """What was judged once is looked up by its file: a file that may not be read has no stamp to be found by."""
    (tmp_path / "private.png").write_bytes(picture(0))
    table = [{"image": {"bytes": None, "path": str(tmp_path / "private.png")}}]
    (tmp_path / "set").mkdir()
    cell = Cell(table=table, column="image", row=0, allowed=roots(tmp_path / "set"))
    assert cell.stamp() == ("", 0)
    with pytest.raises(PictureError, match="path outside the folder"):
        cell.read()
    assert Cell(table=table, column="image", row=0, allowed=roots(tmp_path)).read() == picture(0)


def test_inside_is_below_and_not_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set2").mkdir()
    allowed = (str(tmp_path / "set"),)
    assert inside(str(tmp_path / "set" / "a"), allowed) and inside(str(tmp_path / "set2" / ".." / "set" / "a"), allowed)
    assert not inside(str(tmp_path / "set2" / "a"), allowed) and not inside(str(tmp_path / "set"), allowed)
    monkeypatch.chdir(tmp_path / "set")  # where an address would pass for a path
    assert inside("a", allowed) and not inside("https://example.invalid/a", allowed) and not inside("a::b", allowed)


def test_a_part_of_a_cache_that_lies_on_another_disk_is_the_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "hub" / "datasets--owner--name").symlink_to(tmp_path / "disk")
    assert inside(str(tmp_path / "hub" / "datasets--owner--name" / "0.png"), roots(tmp_path / "none"))
    assert not inside(str(tmp_path / "disk" / "0.png"), roots(tmp_path / "none"))
    assert not inside(f"{tmp_path}/hub/datasets--owner--name/../0.png", roots(tmp_path / "none"))
