"""Markdown: the same facts, pictures as files beside it, and no text of a record means anything."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from bench.printable import clean
from reports.document import Document, document
from reports.gather import Picture
from reports.markdown import code, grid, markdown, plain
from tests.reports.records import EVIL, whole

RENDER = MarkdownIt("gfm-like", {"linkify": False})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Document:
    return document([whole(tmp_path_factory.mktemp("markdown") / "runs")])


def test_it_holds_the_same_facts_as_the_page(made: Document):
    text, _ = markdown(made)
    for answer in made.answers:
        assert plain(answer.words) in text
    for sentence in made.honesty:
        assert plain(sentence) in text
    for row in made.main.rows:
        for cell in row.cells:
            assert cell.text in text
    for claim in made.claims:
        assert plain(f"{claim.side}: {claim.says}") in text and f"**{claim.verdict}**" in text
    for run in made.unfinished:
        assert f"`{run.name}` **{run.status}**" in text
    for refused in made.gathered.refused:
        assert f"`{refused.place}` **refused**" in text


def test_every_picture_is_a_file_beside_it_and_every_file_is_shown(made: Document):
    text, files = markdown(made)
    assert set(re.findall(r"!\[[^\n]*\]\(([^)]+)\)", text)) == set(files)
    assert all(name.startswith("report-pictures/") for name in files)
    for name, data in files.items():
        if name.endswith(".svg"):
            assert data.startswith(b"<?xml")
        else:
            Image.open(io.BytesIO(data)).verify()
    assert sum(map(len, files.values())) + len(text) < 3_000_000


def test_tables_are_whole(made: Document):
    text, _ = markdown(made)
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_no_text_of_a_record_means_anything(made: Document):
    text, _ = markdown(made)
    page = RENDER.render(text)
    tags = set(re.findall(r"<(\w+)", page))
    assert not tags & {"script", "a", "iframe"}
    assert not re.findall(r"<[^>]*\son\w+=", page)
    assert all(source.startswith("report-pictures/") for source in re.findall(r'src="([^"]*)"', page))


@given(st.text(alphabet=st.characters(max_codepoint=0x2FF)) | st.sampled_from([EVIL, "_a_ a_b *c* `d` @me #1 | ~~x~~"]))
def test_plain_text_comes_out_as_it_went_in(text: str):
    words = " ".join(clean(text).split())
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parseInline("x " + plain(text))
    (inline,) = tokens
    assert {token.type for token in inline.children or ()} <= {"text", "text_special"}
    said = "".join(token.content for token in inline.children or ()).replace("\u200b", "")
    assert said.removeprefix("x").strip() == words.replace("\u200b", "").strip()


@given(st.text())
def test_code_stays_code(text: str):
    rendered = RENDER.render(f"a {code(text)} b")
    assert rendered.count("<code>") == (1 if text.split() else 0) or not clean(text).strip()
    assert "|" not in code(text)


def test_a_grid_without_any_picture_is_none():
    assert grid([[Picture(reason="x")], [Picture(reason="x")]]) == b""


def test_names_of_places_stay_the_machine_s_own(made: Document, tmp_path: Path):
    text, _ = markdown(made)
    assert str(tmp_path.parent) not in text


@pytest.mark.parametrize("text", ["see https://a.b/c", "HTTP://a.b", "ftp://a.b", "www.a.b", "WWW.a.b", "mail a@b.c"])
def test_no_address_is_a_link(text: str):
    """GitHub makes one of what has ://, begins with www., or has an @ between words."""
    assert not re.search(r"://|www\.|\w@\w", plain(text), flags=re.IGNORECASE)
    assert plain(text).replace("\u200b", "") == text
