"""Text corpora: splits without overlap, hashes that depend on content alone, and messages for a user's mistakes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench import reach
from bench.config import TextConfig
from bench.data.dataset import SPLITS
from bench.data.overlap import RUN, SHORTEST, normalise, paragraphs
from bench.data.pydocs import TEST, VALIDATION, PyDocs, docstrings, is_prose, separate, split_of
from bench.data.text import TEXTS, Document, TextCorpus, TextFolder, chunk, open_text, split_by_group
from bench.errors import UserError
from bench.files import cache_directory

SHARED = "This paragraph stands in more than one package, word for word, and only one may keep it."
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


def sentence(subject: str, number: int) -> str:
    """Prose whose runs of words differ with the number."""
    word = NUMBERS[number % len(NUMBERS)]
    return f"The {subject} takes {word} {subject} and gives back {word} others {word} times, never {word} fewer."


def install(folder: Path, *names: tuple[str, str]) -> Path:
    """A site-packages folder with packages (distribution, module), each of two modules with a class and a function."""
    for distribution, module in names:
        metadata = folder / f"{distribution}-1.0.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        package = folder / module
        (package / "inner").mkdir(parents=True)
        (package / "__init__.py").write_text(f'"""{sentence(module, 0)}\n\n{SHARED}\n"""\n')
        (package / "inner" / "code.py").write_text(
            f'class A:\n    """{sentence(module, 1)}\n\n       Indented."""\n'
            f'    def f(self):\n        """{SHARED.upper()}"""\n'
            f'def g():\n    r"""{sentence(module, 2)}"""\ndef h():\n    """Short."""\n'
        )
        (package / "tests").mkdir()
        (package / "tests" / "helper.py").write_text(f'"""{sentence("test folder", 3)}"""')
    return folder


THREE = (("numpy", "numpy"), ("pillow", "PIL"), ("mpmath", "mpmath"))


def all_hashes(corpus: TextCorpus) -> list[str]:
    return [corpus.content_hash(split) for split in SPLITS]


def assert_separate(corpus: TextCorpus) -> None:
    groups = [{item.group for item in corpus.documents(split)} for split in SPLITS]
    assert sum(map(len, groups)) == len(set().union(*groups))
    keys = [item.key for split in SPLITS for item in corpus.documents(split)]
    assert len(keys) == len(set(keys))


def assert_no_overlap(splits: dict[str, list[Document]]) -> None:
    """No paragraph, and no run of words within one, is in two splits."""
    for found in (whole_paragraphs, runs_of_words):
        marks = [found(splits[split]) for split in SPLITS]
        for index, first in enumerate(marks):
            for second in marks[index + 1 :]:
                assert not first & second


def whole_paragraphs(documents: list[Document]) -> set[str]:
    found = {normalise(part) for item in documents for part in paragraphs(item.text)}
    return {text for text in found if len(text) >= SHORTEST}


def runs_of_words(documents: list[Document]) -> set[tuple[str, ...]]:
    words = [normalise(part).split() for item in documents for part in paragraphs(item.text)]
    return {tuple(text[at : at + RUN]) for text in words for at in range(len(text) - RUN + 1)}


# ---- pydocs


def test_pydocs_reads_docstrings_once_and_splits_by_package(tmp_path: Path) -> None:
    corpus = PyDocs.read([install(tmp_path / "site", *THREE)], stdlib=None)
    assert {split: {item.group for item in corpus.documents(split)} for split in SPLITS} == {
        "train": {"numpy"},
        "validation": {"PIL"},
        "test": {"mpmath"},
    }
    test = {item.key: item.text for item in corpus.documents("test")}
    assert test == {
        "mpmath/__init__.py": f"{sentence('mpmath', 0)}\n\n{SHARED}",
        "mpmath/inner/code.py": f"{sentence('mpmath', 1)}\n\nIndented.\n\n{SHARED.upper()}\n\n{sentence('mpmath', 2)}",
    }
    train = {item.key: item.text for item in corpus.documents("train")}
    assert train["numpy/__init__.py"] == sentence("numpy", 0)
    assert_separate(corpus)
    assert_no_overlap({split: corpus.documents(split) for split in SPLITS})
    assert corpus.exclusions["package torch isn't installed"] == 1
    assert "package numpy isn't installed" not in corpus.exclusions
    assert corpus.exclusions["docstring too short or not prose"] == 3
    assert corpus.exclusions["docstring that repeats another"] == 2
    assert corpus.exclusions["train paragraph that overlaps a held-out one"] == 1


def test_pydocs_hash_depends_on_content_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = PyDocs.read([install(tmp_path / "here", *THREE)], stdlib=None)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "another cache"))
    elsewhere = install(tmp_path / "deep" / "elsewhere", *THREE[::-1])
    assert all_hashes(PyDocs.read([tmp_path / "empty", elsewhere], stdlib=None)) == all_hashes(here)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "third cache"))
    (elsewhere / "numpy" / "__init__.py").write_text('"""A docstring that is new, and long enough to be kept."""')
    changed = PyDocs.read([elsewhere], stdlib=None)
    assert [a == b for a, b in zip(all_hashes(changed), all_hashes(here), strict=True)] == [False, True, True]


def test_pydocs_cache_is_used_keyed_by_version_and_mended(tmp_path: Path) -> None:
    site = install(tmp_path / "site", *THREE)
    lines: list[str] = []
    first = PyDocs.read([site], stdlib=None, progress=lines.append)
    assert "(1 of 3)" in lines[0] and sum("docstrings" in line for line in lines) == 1  # in moments: no line each
    (site / "numpy" / "__init__.py").unlink()
    lines.clear()
    again = PyDocs.read([site], stdlib=None, progress=lines.append)
    assert not lines
    assert all_hashes(again) == all_hashes(first)
    assert again.exclusions == first.exclusions

    (cache,) = (cache_directory() / "pydocs").iterdir()
    whole = cache.read_bytes()
    install(tmp_path / "scratch", THREE[0])
    (site / "numpy" / "__init__.py").write_bytes((tmp_path / "scratch" / "numpy" / "__init__.py").read_bytes())
    for damage in (whole[: len(whole) // 2], b"", whole.rpartition(b"\n[")[0] + b"\n", b"\x80\n", b"[]\n"):
        cache.write_bytes(damage)
        assert all_hashes(PyDocs.read([site], stdlib=None)) == all_hashes(first)
        assert cache.read_bytes() == whole

    metadata = site / "numpy-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    PyDocs.read([site], stdlib=None)
    assert len(list(cache.parent.iterdir())) == 2


def test_a_bound_on_pydocs_reads_no_more_packages_than_it_takes(tmp_path: Path) -> None:
    site = install(tmp_path / "site", *THREE, ("torch", "torch"), ("networkx", "networkx"))
    whole = PyDocs.read([site], stdlib=None)
    lines: list[str] = []
    some = PyDocs.read([site], stdlib=None, progress=lines.append, limit=330)
    for split in SPLITS:
        assert 0 < sum(len(item.text) for item in some.documents(split)) <= 330
    read = {item.group for item in some.documents("train")}
    assert read == {"networkx"} and not any("torch" in line for line in lines)  # by name, and numpy's turn is later
    assert some.exclusions["package beyond the size bound"] == 2
    again = PyDocs.read([site], stdlib=None, limit=330)
    assert all_hashes(again) == all_hashes(some) and again.exclusions == some.exclusions
    assert all_hashes(PyDocs.read([site], stdlib=None)) == all_hashes(whole) != all_hashes(some)
    assert len(list((cache_directory() / "pydocs").iterdir())) == 2


def test_pydocs_counts_files_that_python_cannot_parse(tmp_path: Path) -> None:
    site = install(tmp_path / "site", *THREE)
    for name, content in (("old", b"print 'two'"), ("latin", b'"""\xe9"""'), ("zero", b"a\0b"), ("deep", b"(" * 9_999)):
        (site / "numpy" / f"{name}.py").write_bytes(content)
    corpus = PyDocs.read([site], stdlib=None)
    assert corpus.exclusions["file that Python can't parse"] == 4


def test_pydocs_without_held_out_packages_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no documents for validation.*package pillow isn't installed"):
        PyDocs.read([install(tmp_path / "site", THREE[0], THREE[2])], stdlib=None)


def test_a_folder_of_the_same_name_is_not_the_package(tmp_path: Path) -> None:
    site = install(tmp_path / "site", *THREE)
    (tmp_path / "work" / "datasets").mkdir(parents=True)
    (tmp_path / "work" / "datasets" / "mine.py").write_text(f'"""{sentence("private note", 1)}"""')
    corpus = PyDocs.read([tmp_path / "work", site], stdlib=None)
    assert corpus.exclusions["package datasets isn't installed"] == 1
    assert {item.group for item in corpus.documents("train")} == {"numpy"}


def test_pydocs_of_a_standard_library(tmp_path: Path) -> None:
    stdlib = tmp_path / "lib"
    modules = {"json/decoder.py": 1, "argparse.py": 2, "email/message.py": 3, "idlelib/run.py": 4, "mine.py": 5}
    for key, number in modules.items():
        (stdlib / key).parent.mkdir(parents=True, exist_ok=True)
        (stdlib / key).write_text(f'"""{sentence(key, number)}"""')
    corpus = PyDocs.read([], stdlib=stdlib)
    keys = {split: {item.key for item in corpus.documents(split)} for split in SPLITS}
    assert keys["validation"] == {"email/message.py"}
    assert keys["test"] == {"argparse.py"}
    assert {"json/decoder.py", "pydoc_topics/assert", "pydoc_topics/with"} <= keys["train"]
    assert not keys["train"] & {"idlelib/run.py", "mine.py"}
    topics = [item.text for item in corpus.documents("train") if item.group == "pydoc_topics"]
    assert sum(map(len, topics)) > 200_000
    assert any("assert_stmt" in text for text in topics)


def test_held_out_packages() -> None:
    assert not TEST & VALIDATION
    assert (split_of("mpmath"), split_of("PIL"), split_of("numpy")) == ("test", "validation", "train")


def test_separate_drops_near_repeats_from_the_split_that_is_trained_on() -> None:
    long = "Return the principal square root of the matrix, computed by the blocked Schur method of Higham."
    edited = f"Note. {long.replace('Return', 'Gives').replace(',', ' --')} Added in version 2."
    own = "Only the training split holds this paragraph, which nobody else has written."
    heading = "Examples:"  # too short to count as a repeat
    splits = {
        "train": [Document(key="a", group="a", text=f"{edited}\n\n{heading}\n\n{own}")],
        "validation": [Document(key="b", group="b", text=f"{heading}\n\n{own.upper()[:-1]}\n\n{long}")],
        "test": [Document(key="c", group="c", text=f"{heading}\n\n{long}")],
    }
    exclusions: Counter[str] = Counter()
    result = separate(splits, exclusions)
    assert result["test"] == splits["test"]
    assert result["validation"][0].text == f"{heading}\n\n{own.upper()[:-1]}"
    assert result["train"] == []  # what is left of it, a heading, is too short to be a document
    assert exclusions["train paragraph that overlaps a held-out one"] == 2
    assert_no_overlap(result)


def test_docstrings_are_those_that_python_sees() -> None:
    source = '"""Mo\\u0064ule.\n\n    Text\n      code"""\nasync def f():\n\t"""F."""\n'
    source += 'class A:\n  "A."\n  x = "no"\n  """no"""\n'
    assert docstrings(source) == ["Module.\n\nText\n  code", "F.", "A."]
    assert is_prose(sentence("matrix", 1))
    assert not is_prose("short")
    assert not is_prose("+------+------+------+\n| 0.11 | 0.22 | 0.33 |\n+------+------+------+\n")
    assert not is_prose("これは日本語で書かれた文書文字列です。英語の散文ではありません。" * 2)


# ---- file and folder


def prose(count: int) -> str:
    return "\n\n".join(f"Paragraph {number}. " + sentence(f"thing{number}", number) * 8 for number in range(count))


def test_chunks_keep_every_word_and_stay_short() -> None:
    text = prose(40) + "\n\n" + "x" * 9_000 + "\n \t\n" + "line\n" * 3_000 + "\n\n\nend"
    pieces = list(chunk(text, 4096))
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert max(map(len, pieces)) <= 4096 + 2 * len(pieces)
    assert sum(len(piece) > 2048 for piece in pieces) >= len(pieces) - 2


def test_one_file_becomes_split_documents(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\ufeff" + prose(400), encoding="utf-8")
    corpus = open_text(TextConfig(name="file", path=str(path)))
    counts = [len(corpus.documents(split)) for split in SPLITS]
    assert sum(counts) == len(list(chunk(prose(400))))
    assert counts[1] == counts[2] == round(0.05 * sum(counts))
    assert_separate(corpus)
    copy = tmp_path / "sub" / "book.txt"
    copy.parent.mkdir()
    copy.write_text(prose(400).replace("\n", "\r\n"), newline="")
    assert all_hashes(open_text(TextConfig(name="file", path=str(copy)))) == all_hashes(corpus)
    assert all_hashes(open_text(TextConfig(name="file", path=str(path), seed=1))) != all_hashes(corpus)


def test_a_bound_holds_for_each_split_of_any_corpus(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(prose(400))
    whole = open_text(TextConfig(name="file", path=str(path)))
    for limit in (100, 20_000):
        some = open_text(TextConfig(name="file", path=str(path), limit=limit))
        for split in SPLITS:
            kept = some.documents(split)
            assert 0 < sum(len(item.text) for item in kept) <= limit
            assert all(any(full.text.startswith(item.text) for full in whole.documents(split)) for item in kept)
    assert all_hashes(open_text(TextConfig(name="file", path=str(path), limit=10**9))) == all_hashes(whole)


def write_folder(folder: Path, order: int) -> Path:
    folder.mkdir()
    for number in range(30)[::order]:
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(exist_ok=True)
        (place / f"{number}{('.txt', '.md', '.rst')[number % 3]}").write_text(sentence(f"thing{number}", number))
    return folder


def test_folder_is_read_whatever_the_order_of_its_files(tmp_path: Path) -> None:
    one = open_text(TextConfig(name="folder", path=str(write_folder(tmp_path / "one", 1))))
    two = open_text(TextConfig(name="folder", path=str(write_folder(tmp_path / "two", -1))))
    assert all_hashes(one) == all_hashes(two)
    assert [len(one.documents(split)) for split in SPLITS] == [26, 2, 2]
    assert not one.exclusions
    assert_separate(one)


def test_names_that_are_no_utf8_are_read_and_written_out(tmp_path: Path) -> None:
    (folder := tmp_path / "texts").mkdir()
    for number in range(5):
        (folder / f"caf\udce9{number}.txt").write_text(sentence("cup", number))
    corpus = open_text(TextConfig(name="folder", path=str(folder)))
    names = [document.key for split in SPLITS for document in corpus.documents(split)]
    assert sorted(names) == [f"caf\\udce9{number}.txt" for number in range(5)] and corpus.content_hash("train")


def test_what_is_hidden_in_a_folder_is_left_out(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / ".folder", 1)
    before = all_hashes(open_text(TextConfig(name="folder", path=str(folder))))
    for name in (".git/a.txt", "a/.cache/deep/b.md", ".c.rst", ".git/HEAD"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(sentence(name, 1))
    corpus = open_text(TextConfig(name="folder", path=str(folder)))
    assert all_hashes(corpus) == before and corpus.exclusions == {"hidden (a name begins with a dot)": 4}


def test_folder_counts_what_it_cannot_use(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", 1)
    (folder / "binary.txt").write_bytes(b"text\0text")
    (folder / "latin.md").write_bytes("café".encode("latin-1"))
    (folder / "blank.rst").write_text(" \n\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "repeat.txt").write_text(sentence("thing3", 3).upper())
    lines = [{"text": sentence("line", 1)}, {"text": " "}, {"body": "x"}, {"text": 3}, [1]]
    nested = "[" * 200_000  # deeper than the reader goes
    text = "\n".join(map(json.dumps, lines)) + '\n{"text": \n\n' + json.dumps({"text": "a\u2028b"}, ensure_ascii=False)
    text += f"\n{nested}"
    (folder / "lines.jsonl").write_text(text, encoding="utf-8")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    corpus = open_text(TextConfig(name="folder", path=str(folder)))
    assert corpus.exclusions == {
        "binary": 1,
        "not UTF-8": 1,
        "empty": 2,
        "not one of .txt .md .rst .jsonl": 1,
        "repeats another document": 1,
        "line has no field text": 3,
        "line is not JSON": 2,
    }
    texts = {item.key: item.text for split in SPLITS for item in corpus.documents(split)}
    assert len(texts) == 32
    assert texts["lines.jsonl#000007"] == "a\u2028b"


def test_split_keeps_a_group_together() -> None:
    documents = [Document(key=f"{n}", group=f"g{n % 10}", text=f"text {n}") for n in range(100)]
    splits = split_by_group(documents, 0, "here", Counter())
    assert [len(splits[split]) for split in SPLITS] == [80, 10, 10]
    assert not {item.group for item in splits["train"]} & {item.group for item in splits["test"]}


def test_users_mistakes(tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("One paragraph only.")
    (tmp_path / "binary.txt").write_bytes(b"\0")
    mistakes = {
        ("pydoc", None): "did you mean 'pydocs'",
        ("file", None): "needs text.path",
        ("hub", None): "needs text.path",
        ("file", str(tmp_path / "absent.txt")): "absent.txt doesn't exist",
        ("folder", str(tmp_path / "absent")): "absent doesn't exist",
        ("file", str(tmp_path)): "use the corpus 'folder'",
        ("folder", str(tmp_path / "two.txt")): "use the corpus 'file'",
        ("file", str(tmp_path / "two.txt")): "has 1 separate texts and needs at least 3",
        ("file", str(tmp_path / "binary.txt")): r"0 separate texts.*\(left out: 1 binary\)",
    }
    for (name, path), message in mistakes.items():
        with pytest.raises(UserError, match=message):
            open_text(TextConfig(name=name, path=path))


def test_unknown_split_suggests_the_nearest(tmp_path: Path) -> None:
    corpus = open_text(TextConfig(name="folder", path=str(write_folder(tmp_path / "folder", 1))))
    with pytest.raises(UserError, match="did you mean 'validation'"):
        corpus.documents("validations")


# ---- hub


def rows(count: int, start: int = 0) -> dict[str, list[str]]:
    return {"text": [sentence(f"row{number}", number) for number in range(start, start + count)]}


def test_hub_keeps_a_datasets_own_splits_and_cuts_the_absent_ones(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    train, dev, test = (datasets.Dataset.from_dict(rows(*size)) for size in ((60,), (5, 60), (7, 70)))
    datasets.DatasetDict(train=train, dev=dev, test=test, extra=test).save_to_disk(tmp_path / "whole")
    corpus = open_text(TextConfig(name="hub", path=str(tmp_path / "whole")))
    assert [len(corpus.documents(split)) for split in SPLITS] == [60, 5, 7]
    datasets.DatasetDict(training=train, Dev=dev, testing=test, extra=test).save_to_disk(tmp_path / "otherwise")
    otherwise = open_text(TextConfig(name="hub", path=str(tmp_path / "otherwise")))
    assert [len(otherwise.documents(split)) for split in SPLITS] == [60, 5, 7]
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "part")
    part = open_text(TextConfig(name="hub", path=str(tmp_path / "part")))
    assert [len(part.documents(split)) for split in SPLITS] == [57, 3, 7]
    assert part.content_hash("test") == corpus.content_hash("test")
    assert_separate(part)
    train.save_to_disk(tmp_path / "single")
    single = open_text(TextConfig(name="hub", path=str(tmp_path / "single")))
    assert [len(single.documents(split)) for split in SPLITS] == [54, 3, 3]


def test_what_a_dataset_holds_out_is_in_no_other_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    texts = {"train": ["one", "Two  words", "three", "four"], "validation": ["four", "five"], "test": ["two words"]}
    parts = {split: datasets.Dataset.from_dict({"text": part}) for split, part in texts.items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "mixed")
    corpus = open_text(TextConfig(name="hub", path=str(tmp_path / "mixed")))
    kept = {split: [item.text for item in corpus.documents(split)] for split in ("train", "validation", "test")}
    assert kept == {"train": ["one", "three"], "validation": ["four", "five"], "test": ["two words"]}
    assert corpus.exclusions["document that is held out in another split"] == 2
    parts["validation"] = parts["test"]
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "same")
    with pytest.raises(UserError, match="every document of split validation is in another one, too"):
        open_text(TextConfig(name="hub", path=str(tmp_path / "same")))


def test_hub_joins_the_lines_of_running_text(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    lines = [line for number in range(600) for line in (f" {sentence(f'row{number}', number)} \n", "")]
    datasets.Dataset.from_dict({"line": lines, "id": list(range(1200))}).save_to_disk(tmp_path / "wiki")
    corpus = open_text(TextConfig(name="hub", path=str(tmp_path / "wiki")))
    texts = [item for split in SPLITS for item in corpus.documents(split)]
    assert not corpus.exclusions
    assert " ".join(item.text for item in sorted(texts, key=lambda item: item.key)).split() == "".join(lines).split()
    assert all(3000 < len(item.text) < 4200 for item in sorted(texts, key=lambda item: item.key)[:-1])


def test_hub_reads_a_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "files"
    folder.mkdir()
    texts = [*rows(20)["text"], ""]
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in texts))
    corpus = open_text(TextConfig(name="hub", path=str(folder)))
    assert sum(len(corpus.documents(split)) for split in SPLITS) == 20
    assert corpus.exclusions == {"empty": 1}


def test_hub_users_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is missing")
    datasets.Dataset.from_dict({"a": ["x"], "b": ["y"], "c": [1]}).save_to_disk(tmp_path / "columns")
    with pytest.raises(UserError, match=r"needs a column text.*it has: a, b"):
        open_text(TextConfig(name="hub", path=str(tmp_path / "columns")))
    whole, lacking = datasets.Dataset.from_dict(rows(9)), datasets.Dataset.from_dict({"line": ["x"], "id": [1]})
    datasets.DatasetDict(train=whole, test=lacking).save_to_disk(tmp_path / "lacking")
    with pytest.raises(UserError, match=r"split test has no column text of text, .*; it has: line, id$"):
        open_text(TextConfig(name="hub", path=str(tmp_path / "lacking")))
    asked: list[tuple[str, str | None]] = []
    monkeypatch.setattr(reach, "_answers", lambda: False)

    def unreachable(name: str, configuration: str | None) -> None:
        asked.append((name, configuration))
        assert datasets.config.HF_HUB_OFFLINE  # the cache is asked, at once, for a hub that is silent costs 23 s a file
        raise ConnectionError("Couldn't reach the hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    for path in ("wikitext/wikitext-2-raw-v1", "Salesforce/wikitext/wikitext-2-raw-v1", "wikitext"):
        with pytest.raises(UserError, match=r"ConnectionError: Couldn't reach the hub[;)]") as caught:
            open_text(TextConfig(name="hub", path=path))
        assert "\n" not in str(caught.value)
    assert asked == [
        ("wikitext/wikitext-2-raw-v1", None),
        ("wikitext", "wikitext-2-raw-v1"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1"),
        ("wikitext", None),
    ]


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install" in TEXTS["hub"].obstacle()
    with pytest.raises(UserError, match="the package datasets is missing"):
        open_text(TextConfig(name="hub", path="wikitext"))


def test_registry_lines_lead_to_corpora() -> None:
    assert set(TEXTS) == {"pydocs", "readmes", "world", "file", "folder", "hub"}
    assert all(issubclass(TEXTS[name].load(), TextCorpus) for name in TEXTS)


def test_some_documents_are_of_no_folder_alone() -> None:
    items = [
        Document(key=f"{folder}/{n:03}", group=f"{folder}/{n}", text="x")
        for folder in ("a_law", "z_code")
        for n in range(200)
    ]
    corpus = TextFolder("two", dict.fromkeys(SPLITS, items), Counter())
    found = corpus.some("test", 96)
    assert len(found) == 96 and found == sorted(found, key=lambda item: item.key)
    assert 30 < sum(item.key.startswith("a_law") for item in found) < 66
    assert corpus.some("test", 1000) == items and all(item in found for item in corpus.some("test", 50))
