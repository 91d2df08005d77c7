"""Which records a report is made of: what reads, once each; everything else refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image

from bench import files
from reports import schema
from reports.gather import Album, Picture, Run, gather
from reports.reproductions import Reproduction
from reports.sweeps import Sweep
from tests.bench.png import chunk
from tests.reports.records import record_of, whole, write_run


def test_a_folder_of_runs_is_read_and_every_other_record_is_refused_by_name(tmp_path: Path):
    found = gather([whole(tmp_path / "runs")])
    assert {run.record.approach for run in found.done} == {"full_retraining", "dual_tower", "projection", "modular"}
    assert [run.record.status for run in found.others] == ["killed"]
    refused = {refused.place: refused.reason for refused in found.refused}
    assert set(refused) == {f"{name}/record.json" for name in ("damaged", "foreign", "future", "begun")}
    assert "not readable as JSON" in refused["damaged/record.json"]
    assert "unknown field '<script>" in refused["foreign/record.json"]
    assert "schema version 99" in refused["future/record.json"]
    assert refused["begun/record.json"] == "the run has no record yet"
    assert not any(str(tmp_path) in reason for reason in refused.values())


def test_a_run_is_named_by_its_folder_its_record_or_the_folder_around(tmp_path: Path):
    folder = write_run(tmp_path / "runs" / "a", record_of("modular"), pictures=False)
    for place in (folder, folder / schema.FILE, folder.parent):
        (run,) = gather([place]).runs
        assert run == Run(record=record_of("modular"), folder=folder)
    assert len(gather([folder, folder.parent, folder / schema.FILE]).runs) == 1
    missing = gather([tmp_path / "nowhere"])
    assert not missing.runs and "no such file" in missing.refused[0].reason


def test_a_run_in_whose_folder_others_lie_is_that_run_alone(tmp_path: Path):
    folder = write_run(tmp_path / "a", record_of("modular"), pictures=False)
    write_run(folder / "again", record_of("dual_tower"), pictures=False)
    assert [run.record.approach for run in gather([folder]).runs] == ["modular"]


def test_the_longer_side_decides_whether_a_picture_is_enlarged():
    sides = [(64, 64), (64, 65), (65, 64)]
    assert [Picture(width=width, height=height).small for width, height in sides] == [True, False, False]


def test_a_folder_that_may_not_be_looked_into_takes_no_other_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path / "open", record_of("modular"), pictures=False)
    write_run(tmp_path / "closed", record_of("dual_tower"), pictures=False)
    exists, read = Path.exists, files.read_regular

    def guarded(act):
        def found(path: Path, *more, **options):
            if path.parent.name == "closed":
                raise PermissionError(13, "Permission denied")
            return act(path, *more, **options)

        return found

    monkeypatch.setattr(Path, "exists", guarded(exists))
    monkeypatch.setattr(files, "read_regular", guarded(read))
    found = gather([tmp_path])
    assert [run.record.approach for run in found.runs] == ["modular"]
    (refused,) = found.refused
    assert refused.place == "closed/record.json" and "Permission denied" in refused.reason


def test_a_picture_with_a_broken_chunk_has_a_reason(tmp_path: Path):
    write_run(tmp_path / "run", record_of("modular"))
    (run,) = gather([tmp_path]).runs
    name = next(sample.true for sample in run.record.samples if sample.true)
    data = (run.folder / name).read_bytes()
    end = data.rindex(b"IEND") - 4
    (run.folder / name).write_bytes(data[:end] + chunk(b"iCCP", b"") + data[end:])  # a colour profile of no bytes
    assert Album().picture(run, name).reason


def test_of_the_same_run_from_two_places_the_done_one_counts(tmp_path: Path):
    done = record_of("modular")
    write_run(tmp_path / "a", dataclasses.replace(done, status="failed", reason="x"), pictures=False)
    write_run(tmp_path / "b", done, pictures=False)
    for order in (["a", "b"], ["b", "a"]):
        (run,) = gather([tmp_path / name for name in order]).runs
        assert run.record.status == "done"


def test_another_record_of_the_same_run_is_told_and_the_order_of_the_places_decides_nothing(tmp_path: Path):
    done = record_of("modular")
    for place, record in (("a", done), ("b", dataclasses.replace(done, notes=("measured again",))), ("c", done)):
        write_run(tmp_path / place / "run", record, pictures=False)
    for order in (["a", "b", "c"], ["c", "b", "a"], ["b", "a", "b"]):
        found = gather([tmp_path / place / "run" for place in order])
        assert [run.folder for run in found.runs] == [tmp_path / "a" / "run"]
        (told,) = found.refused  # the copy that says the same is not
        assert told.place == "b/run/record.json"
        assert told.reason == "left out beside another record of the same run: a/run/record.json counts"


@pytest.mark.parametrize("name", ["trials", "runs"])
def test_around_a_folder_of_runs_that_folder_is_named(tmp_path: Path, name: str):
    write_run(tmp_path / "made" / name / "a", record_of("modular"), pictures=False)
    (told,) = gather([tmp_path / "made"]).refused
    assert told.reason.endswith(f"holds runs in {name}: name made/{name}")


def test_a_sweep_s_and_a_reproduction_s_record_are_told_for_what_they_are(tmp_path: Path):
    for kind, folder in ((Sweep, "trials"), (Reproduction, "runs")):
        file = tmp_path / f"{folder}.json"
        file.write_text(json.dumps({field.name: 1 for field in dataclasses.fields(kind)}))
        (told,) = gather([file]).refused
        assert f"is the record of a {kind.__name__.lower()}, not of a run: name the folder of its runs, {folder}" in (
            told.reason
        )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.png", "outside of its folder"),
        ("/etc/passwd", "outside of its folder"),
        ("link.png", "outside of its folder"),
        ("nothing.png", "missing"),
        ("words.png", "can't be read"),
        ("cut.png", "can't be read"),
        ("a\0b", "can't be read"),
        ("", "names no picture"),
        (None, "names no picture"),
    ],
)
def test_a_picture_that_is_none_has_a_reason(tmp_path: Path, path: str | None, reason: str):
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "words.png").write_text("no picture")
    (folder / "cut.png").write_bytes((tmp_path / "secret.png").read_bytes()[:40])
    picture = Album().picture(Run(record=record_of("modular"), folder=folder), path)
    assert picture.data == b"" and reason in picture.reason


def test_a_large_picture_is_made_smaller_and_a_small_one_is_left_alone(tmp_path: Path):
    run = Run(record=record_of("modular"), folder=tmp_path)
    Image.new("RGB", (32, 24), "red").save(tmp_path / "small.png")
    Image.new("RGBA", (600, 300), "red").save(tmp_path / "large.png")
    album = Album()
    small, large = album.picture(run, "small.png"), album.picture(run, "large.png")
    assert small.data == (tmp_path / "small.png").read_bytes() and small.small and small.kind == "png"
    assert (large.width, large.height, large.kind, large.small) == (192, 96, "webp", False)
    assert album.picture(run, "small.png") is small


def claiming(width: int, height: int) -> bytes:
    """The head of a PNG of this size, one byte a pixel, and nothing behind it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize("side", [13_000, 13_500])  # Pillow warns of the first, and refuses the second
def test_a_picture_that_would_fill_the_memory_is_not_opened(tmp_path: Path, side: int):
    (tmp_path / "large.png").write_bytes(claiming(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = Album().picture(Run(record=record_of("modular"), folder=tmp_path), "large.png")
    assert picture.data == b"" and picture.reason == "it has more than 33,554,432 pixels, and is not opened"


def test_the_largest_picture_that_is_opened_is(tmp_path: Path):
    Image.new("1", (8192, 4096)).save(tmp_path / "large.png")
    assert Album().picture(Run(record=record_of("modular"), folder=tmp_path), "large.png").width == 192


def test_a_file_that_is_too_large_or_none_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Run(record=record_of("modular"), folder=tmp_path)
    monkeypatch.setattr("reports.gather.MOST_BYTES", 60)
    Image.new("RGB", (32, 24), "red").save(tmp_path / "large.png")
    (tmp_path / "round.png").symlink_to("round.png")
    os.mkfifo(tmp_path / "waits.png")
    for name, reason in (
        ("large.png", "more than 60 bytes, and is not opened"),
        ("round.png", "RuntimeError|OSError"),
        ("waits.png", "no file"),
    ):
        picture = Album().picture(run, name)
        assert picture.data == b"" and re.search(reason, picture.reason), picture.reason
