"""Emoji: what the font has, drawn in its colours, named as Unicode names it, split by name."""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from bench.config import DataConfig
from bench.data import fonts
from bench.data.emoji import Emoji, draw, drawn_emoji, why_not
from bench.data.fonts import choose_font, colour_format, find_font
from bench.errors import UserError

FONT = find_font() or Path()
SIZE = 16
needs_font = pytest.mark.skipif(Path() == FONT, reason="no colour-emoji font found")


@pytest.fixture(autouse=True)
def shared_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "emoji-cache"))


def everything(**options):
    splits = {split: Emoji.build(DataConfig(name="emoji", size=SIZE, **options), split) for split in Emoji.splits}
    return {split: [data[i] for i in range(len(data))] for split, data in splits.items()}


@needs_font
def test_each_emoji_is_in_one_split_under_its_unicode_name():
    found = everything()
    samples = [sample for split in found.values() for sample in split]
    assert len({sample.key for sample in samples}) == len({sample.caption for sample in samples}) == len(samples) > 1000
    assert len({sample.image.tobytes() for sample in samples}) > 0.99 * len(samples)
    for sample in samples:
        character = chr(int(sample.key.removeprefix("U+"), 16))
        assert sample.caption == unicodedata.name(character).lower()
        assert all(sample.caption in caption for caption in sample.captions)
    shares = {split: len(each) / len(samples) for split, each in found.items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.03)


@needs_font
def test_colours_are_the_names_colours():
    samples = {sample.caption: sample for split in everything().values() for sample in split}
    middle = {name: samples[f"large {name} square"].image[SIZE // 2, SIZE // 2] for name in ("green", "blue", "yellow")}
    assert middle["green"].argmax() == 1 and middle["blue"].argmax() == 2 and middle["yellow"].argmin() == 2
    face = samples["grinning face"].image
    assert face[0, 0].min() > 240, "the ground is white"
    assert int(face[:, :, 0].mean()) > int(face[:, :, 2].mean()) + 30, "the face is yellow"


@needs_font
def test_what_is_no_emoji_of_its_own_is_counted():
    data = Emoji.build(DataConfig(name="emoji", size=SIZE), "train")
    assert data.exclusions["regional indicator"] == 26
    assert data.exclusions["keycap base"] == 12
    assert not any(why_not(chr(int(data[i].key[2:], 16))) for i in range(len(data)))


@needs_font
def test_an_unknown_glyph_is_not_drawn():
    from PIL import ImageFont

    drawer = ImageFont.truetype(str(FONT), 109, layout_engine=ImageFont.Layout.BASIC)
    assert draw(drawer, " ") is None


@needs_font
def test_the_cache_gives_what_was_drawn_and_damage_is_mended(monkeypatch, tmp_path):
    drawn = drawn_emoji(FONT, SIZE)
    monkeypatch.setattr("bench.data.emoji.draw_all", lambda font, size: pytest.fail("drawn again"))
    again = drawn_emoji(FONT, SIZE)
    assert np.array_equal(drawn.images, again.images)
    assert (drawn.codes, drawn.exclusions) == (again.codes, again.exclusions)

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    calls = []

    def counted(font, size):
        calls.append(size)
        return drawn

    monkeypatch.setattr("bench.data.emoji.draw_all", counted)
    drawn_emoji(FONT, SIZE)
    (stored,) = (tmp_path / "emoji").iterdir()
    whole = stored.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 30):
        stored.write_bytes(whole[:length])
        assert np.array_equal(drawn_emoji(FONT, SIZE).images, drawn.images)
        assert stored.read_bytes()[:2] == b"PK"
    assert len(calls) == 5


@needs_font
def test_another_seed_splits_otherwise_and_a_bound_keeps_the_beginning():
    names = {seed: [sample.caption for sample in everything(seed=seed)["test"]] for seed in (0, 1)}
    assert set(names[0]) != set(names[1])
    assert [sample.caption for sample in everything(eval_items=7)["test"]] == names[0][:7]


def font_file(path, *tables):
    """An OpenType table directory, with two bytes of version behind it."""
    end = 12 + 16 * len(tables)
    records = b"".join(struct.pack(">4sIII", tag, 0, end + 2 * i, 2) for i, (tag, _) in enumerate(tables))
    versions = b"".join(struct.pack(">H", version) for _, version in tables)
    path.write_bytes(b"\0\1\0\0" + struct.pack(">HHHH", len(tables), 0, 0, 0) + records + versions)
    return path


@pytest.mark.parametrize(
    ("tables", "kind"),
    [
        ([(b"cmap", 0)], ""),
        ([(b"CBDT", 3), (b"COLR", 1)], "CBDT"),
        ([(b"COLR", 0)], "COLRv0"),
        ([(b"COLR", 1)], "COLRv1"),
        ([(b"glyf", 0), (b"sbix", 1)], "sbix"),
    ],
)
def test_colour_formats(tmp_path, tables, kind):
    font = font_file(tmp_path / "x.ttf", *tables)
    assert colour_format(font) == kind
    for length in range(len(font.read_bytes())):
        (tmp_path / "cut.ttf").write_bytes(font.read_bytes()[:length])
        assert colour_format(tmp_path / "cut.ttf") in ("", kind)


def test_refusals_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such font file"):
        choose_font(str(tmp_path / "absent.ttf"))
    with pytest.raises(UserError, match="no colour font"):
        choose_font(str(font_file(tmp_path / "plain.ttf", (b"cmap", 0))))
    with pytest.raises(UserError, match="COLRv1.*NotoColorEmoji"):
        choose_font(str(font_file(tmp_path / "new.ttf", (b"COLR", 1))))
    with pytest.raises(UserError, match="can't be read as a colour font"):
        Emoji.build(DataConfig(name="emoji", path=str(font_file(tmp_path / "hollow.ttf", (b"CBDT", 3)))), "train")
    monkeypatch.setattr(fonts, "_candidates", lambda: iter(()))
    with pytest.raises(UserError, match="install fonts-noto-color-emoji"):
        choose_font(None)
