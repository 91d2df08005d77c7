"""What every registered dataset must hold. A dataset without a source here fails: a contract nobody checks is none."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.config import DataConfig
from bench.data.catalogue import DATASETS, check_data, open_dataset
from bench.data.fonts import find_font
from bench.errors import UserError

SIZE = 16
SPLITS = ("train", "validation", "test")


def pictures(variant):
    """(split, name, PNG bytes, caption) of 12 training pictures and 3 of each other split."""
    for place, split in enumerate(SPLITS):
        for i in range(12 if split == "train" else 3):
            seed = 100 * place + i + (1000 if variant and i == 0 else 0)  # a variant differs in one picture a split
            buffer = io.BytesIO()
            pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "PNG")
            yield split, f"{split}-{i:02d}", buffer.getvalue(), f"picture {i} of {split}"


def shapes(folder, variant):
    return DataConfig(name="shapes", size=SIZE, train_items=12, eval_items=6, seed=variant)


def emoji(folder, variant):
    return DataConfig(name="emoji", size=SIZE, train_items=40 - variant, eval_items=20 - variant)


def image_folder(folder, variant):
    rows = []
    for split, name, data, caption in pictures(variant):
        (folder / split).mkdir(exist_ok=True)
        (folder / split / f"{name}.png").write_bytes(data)
        rows.append(json.dumps({"file_name": f"{split}/{name}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return DataConfig(name="folder", path=str(folder), size=SIZE)


def folder_without_metadata(folder, variant):
    for split, name, data, caption in pictures(variant):
        (folder / split).mkdir(exist_ok=True)
        (folder / split / f"{name}.png").write_bytes(data)
        (folder / split / f"{name}.txt").write_text(caption)
    return DataConfig(name="folder", path=str(folder), size=SIZE)


def shards(folder, variant):
    for number, (split, name, data, caption) in enumerate(pictures(variant)):
        with tarfile.open(folder / f"{split}-{number % 4 if split == 'train' else 0}.tar", "a") as tar:
            for kind, content in (("png", data), ("txt", caption.encode())):
                entry = tarfile.TarInfo(f"{name}.{kind}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return DataConfig(name="webdataset", path=str(folder), size=SIZE)


def hub(folder, variant):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    tables: dict[str, dict[str, list]] = {split: {"image": [], "text": []} for split in SPLITS}
    for split, _, data, caption in pictures(variant):
        tables[split]["image"].append({"bytes": data, "path": None})
        tables[split]["text"].append(caption)
    datasets.disable_progress_bars()
    made = {split: datasets.Dataset.from_dict(columns, features=features) for split, columns in tables.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return DataConfig(name="hub", path=str(folder), size=SIZE)


SOURCES = {"shapes": shapes, "emoji": emoji, "folder": image_folder, "webdataset": shards, "hub": hub}
OTHER_SOURCES = {"folder without metadata": folder_without_metadata}
"""Other ways in which files of a dataset can lie."""


@pytest.fixture(autouse=True)
def shared_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "emoji-cache"))


@pytest.fixture(scope="module", params=[*DATASETS, *OTHER_SOURCES])
def configs(request, tmp_path_factory):
    """Configs of the same dataset with two different contents."""
    name = request.param
    sources = {**SOURCES, **OTHER_SOURCES}
    assert name in sources, f"dataset '{name}' is registered and has no source in this test: add one"
    if name == "emoji" and find_font() is None:
        pytest.skip("no colour-emoji font found")
    if name == "hub" and importlib.util.find_spec("datasets") is None:
        pytest.skip("the package datasets is missing")
    return [sources[name](tmp_path_factory.mktemp(f"{name}{variant}"), variant) for variant in (0, 1)]


def splits(config):
    return DATASETS[config.name].load().splits


def same(a, b):
    return (a.key, a.captions, a.scene) == (b.key, b.captions, b.scene) and np.array_equal(a.image, b.image)


def test_samples_are_square_rgb_with_captions(configs):
    for split in splits(configs[0]):
        data = open_dataset(configs[0], split)
        samples = data.first(10_000)
        assert (data.name, data.split, data.size) == (configs[0].name, split, SIZE)
        assert isinstance(data.exclusions, Counter)
        assert samples and len({sample.key for sample in samples}) == len(samples)
        for sample in samples:
            assert sample.image.dtype == np.uint8 and sample.image.shape == (SIZE, SIZE, 3)
            assert sample.captions and all(caption.strip() for caption in sample.captions)
            assert sample.caption == sample.captions[0]


def test_the_content_hash_follows_the_content(configs):
    first, other = configs
    for split in splits(first):
        stable = open_dataset(first, split).content_hash()
        assert len(stable) == 16 and int(stable, 16) >= 0
        assert open_dataset(first, split).content_hash() == stable
        assert open_dataset(other, split).content_hash() != stable
        assert open_dataset(replace(first, size=SIZE * 2), split).content_hash() != stable
    assert len({open_dataset(first, split).content_hash() for split in splits(first)}) == len(splits(first))


def test_first_is_one_fixed_order(configs):
    one, two = (open_dataset(configs[0], "train") for _ in range(2))
    whole = one.first(10_000)
    for count in (0, 1, 5, 10_001):
        found = two.first(count)
        assert len(found) == min(count, len(whole))
        assert all(same(a, b) for a, b in zip(found, whole, strict=False))


def test_splits_share_no_key(configs):
    keys = [{sample.key for sample in open_dataset(configs[0], split).first(10_000)} for split in splits(configs[0])]
    assert len(set.union(*keys)) == sum(map(len, keys))


def test_bounds_are_kept(configs):
    config = replace(configs[0], train_items=5, eval_items=2)
    assert [len(open_dataset(config, split).first(99)) for split in SPLITS] == [5, 2, 2]
    assert [s.key for s in open_dataset(config, "train").first(5)] == [
        s.key for s in open_dataset(configs[0], "train").first(5)
    ]


def test_an_unknown_split_suggests_the_nearest(configs):
    with pytest.raises(UserError, match="did you mean 'validation'"):
        open_dataset(configs[0], "validaton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "shaps"}, "did you mean 'shapes'"),
        ({"size": 4}, "data.size is 4, expected a multiple of 4 from 8 to 1024"),
        ({"size": 30}, "data.size is 30"),
        ({"size": 2048}, "data.size is 2048"),
        ({"train_items": 0}, "data.train_items is 0"),
        ({"seed": -1}, "data.seed is -1"),
        ({"path": "x"}, "--data.path x: no such file or folder"),
        ({"path": "."}, "'shapes' is generated and reads no path"),
        ({"name": "folder"}, "dataset 'folder' needs --data.path"),
        ({"name": "webdataset"}, "dataset 'webdataset' needs --data.path"),
        ({"name": "hub"}, "dataset 'hub' (needs --data.path|can't run here)"),
        ({"name": "emoji", "path": "/absent.ttf"}, "/absent.ttf: no such font file"),
    ],
)
def test_a_bad_config_is_refused(change, message):
    with pytest.raises(UserError, match=message.replace("(needs", "(?:needs")):
        check_data(replace(DataConfig(), **change))


def test_judging_a_config_imports_nothing_heavy():
    code = (
        "import sys; from bench.config import DataConfig; from bench.data.catalogue import *; check_data(DataConfig());"
        "[DATASETS[name].obstacle() for name in DATASETS];"
        "print(sorted({'torch', 'numpy', 'PIL', 'datasets', 'fontTools'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_opening_a_dataset_imports_no_torch(tmp_path):
    config = image_folder(tmp_path, 0)
    code = (
        "import sys; from bench.config import DataConfig; from bench.data.catalogue import open_dataset\n"
        f"print(len(open_dataset(DataConfig(name='folder', path={config.path!r}), 'train').first(3)))\n"
        "import bench.data.emoji, bench.data.webdataset, bench.data.hub, bench.data.shapes\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["3", "False"]
