"""Text that is not replayed: which corpora it may be, that nothing of what is replayed is left in it, and that a run is
held to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.config import Config, EvaluateConfig, TextConfig
from bench.contents import changed_other_texts, contents, unchanged
from bench.data import overlap
from bench.data.other_texts import named, other_texts, other_texts_hash
from bench.data.overlap import overlaps, unread
from bench.data.readmes import Readmes
from bench.data.text import Document, TextFile, open_text
from bench.data.world_text import SIZES, WorldText
from bench.errors import UserError
from bench.files import cache_directory
from bench.store import Request
from bench.store import request as request_of
from tests.bench import ways

ORCHARD = "The orchard behind the old mill gives more apples in a dry year than the meadow does."
HARBOUR = "In the harbour lie nine boats, and each of them has a name that nobody in town can read."


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def quiet(_: str) -> None:
    pass


def asking(*entries: str, text: TextConfig | None = None, documents: int = 96) -> Config:
    return Config(text=text or TextConfig(), evaluate=EvaluateConfig(documents=documents, other_texts=entries))


def corpus(*paragraphs: str) -> TextFile:
    """One that trains on these."""
    documents = [Document(key=text[:9], group=text[:9], text=text) for text in (*paragraphs, "Held out.", "Too.")]
    splits = {"train": documents[:-2], "validation": documents[-2:-1], "test": documents[-1:]}
    return TextFile("replayed", splits, Counter())


# ------------------------------------------------------------------------------------------------------ which they are


def test_corpora_are_named_by_name_by_kind_and_path_or_by_path(tmp_path: Path) -> None:
    (tmp_path / "Wiki text-103.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    found = named(asking("world", f"file:{tmp_path}/Wiki text-103.txt", f"{tmp_path}/folder", "hub:owner/wiki/raw-v1"))
    assert {label: (config.name, config.path) for label, config in found.items()} == {
        "world": ("world", None),
        "wiki_text_103": ("file", f"{tmp_path}/Wiki text-103.txt"),
        "folder": ("folder", f"{tmp_path}/folder"),
        "raw_v1": ("hub", "owner/wiki/raw-v1"),
    }
    assert named(asking()) == {}


MISTAKES = [
    (("redmes",), "has 'redmes', which is no file or folder: did you mean 'readmes'?"),
    (("owner/name",), "a hub id is spelt hub:ID"),
    (("readmes", "readmes"), "two are called 'readmes'"),
    (("pydocs",), "has 'pydocs', which is the text that training replays"),
    (("readmes:./x",), "has 'readmes:./x', and readmes reads no path: expected readmes, or file:"),
]


@pytest.mark.parametrize(("entries", "sentence"), MISTAKES, ids=[" ".join(entries) for entries, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(
    capsys: pytest.CaptureFixture[str], entries: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UserError, match="^evaluate.other_texts") as raised:
        named(asking(*entries))
    assert sentence in str(raised.value)
    assert cli.main(["run", "--approach", "dual_tower", "--evaluate.other-texts", *entries]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and sentence in captured.err


def test_the_same_file_is_refused_and_another_may_be_called_as_the_text_is(tmp_path: Path) -> None:
    own, other = tmp_path / "a" / "text.txt", tmp_path / "b" / "text.txt"
    for path in (own, other):
        path.parent.mkdir()
        path.write_text("x")
    text = TextConfig(name="file", path=str(own))
    assert set(named(asking("pydocs", str(other), text=text))) == {"pydocs", "text"}
    with pytest.raises(UserError, match="which is the text that training replays"):
        named(asking(str(own), text=text))


# -------------------------------------------------------------------------------------------------------- what is left


def test_paragraphs_that_training_reads_are_left_out_and_no_others() -> None:
    training = corpus(ORCHARD, f"{HARBOUR} {HARBOUR}")
    inside = f"They say so: {' '.join(HARBOUR.upper().split()[1:15])}!"  # a run of 14 words
    fresh = "Nobody has counted the stairs of the tower since the last watchman left it in the spring."
    short = "The orchard behind the old mill."  # a run of less than 13
    documents = [
        Document(key="both", group="both", text=f"{ORCHARD}\n\n{fresh}\n\n{inside}\n\n{short}"),
        Document(key="gone", group="gone", text=ORCHARD),
        Document(key="kept", group="kept", text=fresh),
    ]
    found = unread(documents, training)
    assert [(item.key, item.text) for item in found] == [("both", f"{fresh}\n\n{short}"), ("kept", fresh)]


def test_a_heading_that_many_texts_have_is_no_overlap_and_a_whole_sentence_is_one() -> None:
    assert not overlaps("See also:", {"see also"}, set())
    known = "nine boats lie here and nobody reads their names"
    assert overlaps("Nine boats lie here, and nobody reads their names!", {known}, set())
    assert not overlaps("Nine boats lie here, and nobody reads their names!", {known + " now"}, set())


def test_what_is_left_comes_from_the_cache_until_a_content_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    training = corpus(ORCHARD)
    documents = [Document(key="a", group="a", text=f"{ORCHARD}\n\n{HARBOUR}")]
    calls: list[Any] = []
    work = overlap._without

    def counted(*given: Any) -> Iterator[Document]:
        calls.append(given)
        return work(*given)

    monkeypatch.setattr(overlap, "_without", counted)
    first = unread(documents, training)
    assert unread(documents, training) == first and [item.text for item in first] == [HARBOUR] and len(calls) == 1
    (kept,) = (cache_directory() / "unread").iterdir()
    kept.write_text("{")  # cut short
    assert unread(documents, training) == first and len(calls) == 2
    unread([replace(documents[0], text=HARBOUR)], training)
    assert len(calls) == 3
    unread(documents, corpus(HARBOUR))
    assert len(calls) == 4


def test_as_many_documents_of_each_as_of_the_corpus_held_out_ones_first(tmp_path: Path) -> None:
    training = corpus(ORCHARD)
    found = other_texts(asking("world", documents=7), training, quiet)
    assert [item.key for item in found["world"]] == [f"test/{n:06d}" for n in range(7)]
    path = tmp_path / "small.jsonl"
    path.write_text(
        "".join(f'{{"text": "Lamp {n} of the long street burns a little longer than most."}}\n' for n in range(9))
    )
    every = other_texts(asking(str(path), documents=96), training, quiet)["small"]
    assert len(every) == 9 and len({item.key for item in every}) == 9  # nothing is trained on, so every split is taken


# --------------------------------------------------------------------------------------------------------- two corpora


def test_readmes_are_the_descriptions_as_prose(tmp_path: Path) -> None:
    body = {
        "numpy": "# NumPy\n\n[![badge](https://a.b/c.svg)](https://a.b)\n\n<p align='center'>It is the package that "
        "[counts](https://a.b/c) for all the others, and quickly.</p>\n\n    | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |\n",
        "scipy": ".. image:: https://a.b/c.svg\n  :target: https://a.b\n\nIt knows integrals, and how to solve what "
        "has no closed form at all.\n",
        "tqdm": "It tells you how long you have to wait for what you have begun, in one line.",
        "rich": "short",
        "mpmath": "",
    }
    for name, text in body.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n\n{text}")
    found = Readmes.read([str(tmp_path)], TextConfig())
    texts = {item.key: item.text for split in ("train", "validation", "test") for item in found.documents(split)}
    assert texts == {
        "numpy": "It is the package that counts for all the others, and quickly.",
        "scipy": "It knows integrals, and how to solve what has no closed form at all.",
        "tqdm": "It tells you how long you have to wait for what you have begun, in one line.",
    }
    assert found.exclusions["package without a description"] == 2
    assert found.exclusions["package that isn't installed"] > 20


def test_this_machine_has_enough_readmes_to_measure() -> None:
    found = open_text(TextConfig(name="readmes"))
    every = [item for split in ("train", "validation", "test") for item in found.documents(split)]
    assert len(every) >= 30 and sum(len(item.text) for item in every) > 100_000


def test_world_text_is_a_corpus_whose_splits_and_seeds_differ() -> None:
    found = open_text(TextConfig(name="world", limit=2000))
    assert isinstance(found, WorldText)
    texts = {split: {item.text for item in found.documents(split)} for split in SIZES}
    assert all(sum(map(len, some)) <= 2000 and len(some) > 5 for some in texts.values())
    assert any("plan:" in text for text in texts["test"]) and not texts["train"] & texts["test"]
    other, again = WorldText(1, 2000), WorldText(0, 2000)
    assert other.content_hash("test") != found.content_hash("test") == again.content_hash("test")
    with pytest.raises(UserError, match="did you mean 'test'"):
        found.documents("tests")


# ------------------------------------------------------------------------------------------------ a run is held to them


def requested(folder: Path) -> tuple[Request, Path, Callable[[], dict[str, str]]]:
    """A run whose other text is a file, that file, and its contents anew."""
    from approaches.settings import DualTowerSettings

    path = folder / "other.txt"
    path.write_text("\n\n".join(f"Lamp {n} of the long street burns longer. " * 120 for n in range(6)))
    config = ways.micro(folder / "words")
    config = replace(config, evaluate=replace(config.evaluate, other_texts=(str(path),)))
    made = request_of(config, "dual_tower", DualTowerSettings(), contents(config, quiet))
    return made, path, lambda: contents(config, quiet)


def test_another_text_is_another_run_told_when_measured_again_and_no_reason_not_to_train(tmp_path: Path) -> None:
    request, path, anew = requested(tmp_path)
    assert not changed_other_texts(request, quiet)
    before = anew()
    path.write_text(path.read_text().replace("longer", "brighter"))
    after = anew()
    assert {part for part in before if before[part] != after[part]} == {"other texts"}
    assert changed_other_texts(request, quiet)
    unchanged(request, quiet)  # of a curve: they train nothing
    older = replace(request, parts={name: part for name, part in request.parts.items() if name != "other texts"})
    assert not changed_other_texts(older, quiet)
    path.unlink()
    with pytest.raises(UserError, match="no file or folder"):
        changed_other_texts(request, quiet)


def test_a_hash_follows_what_can_be_measured(tmp_path: Path) -> None:
    few, many = (other_texts_hash(asking("world", documents=count), quiet) for count in (3, 4))
    assert few != many and other_texts_hash(asking(documents=3), quiet) != few
