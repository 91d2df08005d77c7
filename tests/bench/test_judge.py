"""`judge`: pictures that anybody made get a run's numbers, the ones that torch-fidelity gives, and whatever is wrong
with the files is told."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bench import cli, judge
from bench.config import Config
from bench.data.dataset import Sample
from bench.data.shapes import Shapes
from bench.picture_metrics import EXTRACTED, FID, clip_of
from metrics.alignment import clip_metrics
from metrics.extraction import extract
from metrics.features import efficientnet_lite0, open_extractor
from metrics.fidelity import fidelity_metrics
from metrics.inception import Inception
from metrics.statistics import Estimate
from reports import schema
from tests.bench.conftest import MicroRun
from tests.bench.png import deep_colour
from tests.metrics.known_there import early, save, torch_fidelity_extractor, torch_fidelity_numbers
from tests.reports.records import record_of

COUNT = 40
SMALL = ("--extractor-input", "64")
LITE0 = "efficientnet_lite0"


@cache
def samples(split: str, count: int = COUNT) -> list[Sample]:
    return Shapes(split=split, size=32, seed=0, items=count).first(count)


def images(split: str, count: int = COUNT) -> NDArray[np.uint8]:
    return np.stack([sample.image for sample in samples(split, count)])


def describe(folder: Path, captions: dict[str, str]) -> None:
    rows = (json.dumps({"file_name": name, "text": text}) for name, text in captions.items())
    (folder / "metadata.jsonl").write_text("\n".join(rows))


@pytest.fixture(scope="module", autouse=True)
def opened_once() -> Iterator[None]:
    """One extractor and one CLIP for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "open_extractor", cache(open_extractor))
        patch.setattr(judge, "clip_of", cache(clip_of))
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions."""
    folder = Path(save(tmp_path_factory.mktemp("judged") / "drawn", images("test") // 2))
    describe(folder, {f"{number:04}.png": sample.caption for number, sample in enumerate(samples("test"))})
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save(tmp_path_factory.mktemp("reference") / "real", images("train")))


def judged(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Estimate], str]:
    """The numbers that the command gives as JSON, and what it says on stderr."""
    assert cli.main(["judge", *map(str, words), "--json", *SMALL]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    return {name: Estimate.from_json(each) for name, each in json.loads(captured.out).items()}, captured.err


def value(found: dict[str, Estimate], name: str) -> float:
    number = found[name].value
    assert number is not None, found[name].reason
    return number


def shown(found: dict[str, Estimate]) -> dict[str, tuple[Any, ...]]:
    return {name: (each.value, each.low, each.high, each.n, each.reason) for name, each in found.items()}


# ------------------------------------------------------------------------------------------------ the same numbers


def test_the_numbers_on_inception_are_torch_fidelitys(
    inception_file: Path,
    small_inception: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pool(config: Config, device: torch.device) -> Inception:  # an early layer: more pictures than features
        return early(Inception(Path(config.evaluate.inception), device=device))

    monkeypatch.setattr(judge, "inception_of", pool)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, split, shade in zip(folders, ("test", "train"), (1, 2), strict=True):
        save(folder, images(split, 72) // shade)
        for path in sorted(folder.iterdir())[::3]:  # every third one larger
            Image.open(path).resize((48, 48)).save(path)
    found, _ = judged(capsys, folders[0], "--reference", folders[1], "--inception", inception_file)
    layers: dict[str, Any] = {f"feature_layer_{metric}": "64" for metric in ("fid", "kid")}
    theirs = torch_fidelity_numbers(
        str(folders[0]),
        str(folders[1]),
        72,
        batch=1,
        fid=True,
        kid=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        **layers,
    )
    fd = value(found, "fd_inception_v3_other")
    assert fd > 1e-3 and fd == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    kid = theirs["kernel_inception_distance_mean"]  # its kernels are in single precision
    assert value(found, "kid_inception_v3_other") == pytest.approx(kid, rel=1e-4)
    assert found["fid"].value is None and "--inception names other weights" in found["fid"].reason


def test_the_numbers_on_an_extractor_are_torch_fidelitys(
    drawn: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = judged(capsys, drawn, "--reference", real)
    name = torch_fidelity_extractor(efficientnet_lite0(input_size=64))
    theirs = torch_fidelity_numbers(str(drawn), str(real), COUNT, kid=True, prc=True, feature_extractor=name)
    kid = theirs["kernel_inception_distance_mean"]
    assert value(found, f"kid_{LITE0}") == pytest.approx(kid, rel=1e-4, abs=1e-7)
    for each in ("precision", "recall"):
        assert value(found, each) == pytest.approx(theirs[each], rel=1e-6)


def test_the_numbers_are_those_of_a_runs_functions(drawn: Path, real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = judged(capsys, drawn, "--reference", real)
    extractor, names = efficientnet_lite0(input_size=64), [f"{number:04}.png" for number in range(COUNT)]
    mine, theirs = (extract(extractor, each, batch=EXTRACTED) for each in (images("test") // 2, images("train")))
    for name, estimate in fidelity_metrics(mine, theirs, keys=names).items():
        if name.startswith(("null_", "vae_")):
            continue  # a run holds real pictures out, and has a VAE
        assert shown({name: found[name]}) == shown({name: estimate}), name
        # The hash of the reference is of its pictures one by one.
        assert {**found[name].details, "real": ""} == {**estimate.details, "real": ""}, name
    captions = [sample.caption for sample in samples("test")]
    clip = clip_of(Config(), torch.device("cpu"))
    for name, estimate in clip_metrics(clip, images("test") // 2, captions, keys=names, batch=EXTRACTED).items():
        assert found[name] == Estimate.from_json(json.loads(json.dumps(estimate.to_json()))), name


def test_a_folder_against_itself_is_at_no_distance(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = judged(capsys, real, "--reference", real)
    assert abs(value(found, f"fd_{LITE0}")) < 1e-6 < value(found, f"null_fd_{LITE0}")
    assert value(found, "precision") == value(found, "recall") == value(found, "coverage") == 1
    assert f"{COUNT} of {COUNT} pictures judged are, pixel for pixel, in the reference" in said


def test_halves_of_the_same_pictures_are_at_about_the_null_distance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = images("train", 192)
    same = judged(capsys, save(tmp_path / "a", every[:64]), "--reference", save(tmp_path / "b", every[64:]))[0]
    null, matched = same[f"null_fd_{LITE0}"], same[f"fd_{LITE0}_matched"]
    assert null.n == matched.n == 64 and null.details["n_real"] == matched.details["n_real"] == 64
    assert null.details["real"] == matched.details["real"] and matched.details["null"] == null.value
    assert null.low is not None and null.high is not None and null.low < value(same, f"fd_{LITE0}_matched") < null.high
    noise = np.random.default_rng(0).integers(0, 256, every[:64].shape, dtype=np.uint8)
    other = judged(capsys, save(tmp_path / "c", noise), "--reference", tmp_path / "b")[0]
    assert value(other, f"null_fd_{LITE0}") == null.value and (other[f"fd_{LITE0}_matched"].low or 0) > null.high


# ------------------------------------------------------------------------------------------------------- the files


def test_neither_the_format_nor_the_folders_change_a_number(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = judged(capsys, drawn, "--reference", real)
    captions = {}
    for number, sample in enumerate(samples("test")):
        name = f"{'abcd'[number // 10]}/{number:04}.{('bmp', 'webp', 'PNG', 'tiff')[number % 4]}"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(sample.image // 2).save(tmp_path / name, lossless=True)  # WebP's own option
        captions[name] = sample.caption
    (tmp_path / ".hidden.png").write_bytes(b"none of the pictures")
    (tmp_path / "notes.txt").write_text("nor this")
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *captions.items()])
    assert shown(judged(capsys, tmp_path, "--reference", real)[0]) == shown(found)


def test_the_order_of_the_names_changes_no_value(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = judged(capsys, drawn, "--reference", real)
    save(tmp_path / "turned", images("test")[::-1] // 2)
    turned, _ = judged(capsys, tmp_path / "turned", "--reference", real)
    for name in (f"fd_{LITE0}", f"kid_{LITE0}", "precision", "recall", "density", "coverage"):
        assert value(turned, name) == pytest.approx(value(found, name), rel=1e-4, abs=1e-7), name


def test_a_picture_that_is_not_square_is_its_middle(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = judged(capsys, drawn, "--reference", real)
    for number, image in enumerate(images("test") // 2):
        page = Image.new("RGB", (32, 40) if number % 2 else (46, 32), "white")
        page.paste(Image.fromarray(image), (0, 4) if number % 2 else (7, 0))
        page.save(tmp_path / f"{number:04}.png")
    wide, said = judged(capsys, tmp_path, "--reference", real)
    assert shown({n: e for n, e in wide.items() if "clip" not in n}) == shown(
        {n: e for n, e in found.items() if "clip" not in n}
    )
    assert "40 of 40 are not square" in said


def test_captions_are_of_the_pictures_that_have_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(save(tmp_path / "some", images("test", 12)))
    captions = {f"{number:04}.png": samples("test")[number].caption for number in range(2, 12)}
    describe(folder, {"0001.png": "", **captions, "0002.png": "", "absent.png": "nothing"})
    found, said = judged(capsys, folder)
    assert found["clip_score"].n == len(found["clip_score"].details["per_item"]) == 9
    own = clip_metrics(
        clip_of(Config(), torch.device("cpu")), images("test", 12)[3:], [*captions.values()][1:], batch=EXTRACTED
    )
    assert value(found, "clip_score") == own["clip_score"].value
    assert f"captions of {folder}: 1 x caption of no picture here" in said
    assert f"captions of {folder}: 1 x picture that it does not name, left out" in said
    assert "2 of 11 pictures judged have no caption" in said and judge.OWN_CLIP in said
    assert found[f"fd_{LITE0}"].reason == found["fid"].reason == judge.NO_REFERENCE


@pytest.mark.slow
def test_what_generate_leaves_is_judged_without_its_sheet(
    micro_run: MicroRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", str(micro_run.folder), "a red circle", "two blue squares", "a dark cross"]) == 0
    capsys.readouterr()
    found, said = judged(capsys, "drawn")
    assert found["clip_score"].n == 3
    assert "captions of drawn: 1 x picture that it does not name, left out" in said


def test_metadata_without_captions_takes_no_distance_down(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "labelled"
    shutil.copytree(drawn, folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("file,label\n0000.png,3\n")
    found, _ = judged(capsys, folder, "--reference", real)
    whole, _ = judged(capsys, drawn, "--reference", real)
    assert value(found, f"fd_{LITE0}") == value(whole, f"fd_{LITE0}")
    assert found["clip_score"].value is None and "metadata.csv" in found["clip_score"].reason


def test_captions_may_lie_beside_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [sample.caption for sample in samples("test")[:8]]
    for name in ("told", "beside"):
        save(tmp_path / name, images("test", 8))
    describe(tmp_path / "told", {f"{number:04}.png": text for number, text in enumerate(words)})
    for number, text in enumerate(words):
        (tmp_path / "beside" / f"{number:04}.txt").write_text(f"{text}\n")
    found = [judged(capsys, tmp_path / name)[0] for name in ("told", "beside")]
    assert value(found[0], "clip_score") == value(found[1], "clip_score") != 0


def test_what_is_wrong_with_files_is_one_warning_and_travels_with_the_numbers(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(drawn, folder)
    before, _ = judged(capsys, folder, "--reference", real)
    odd = ("float.tif", "torn.png", "a/torn.jpg", "grey.png", "deep.png")
    with (folder / "metadata.jsonl").open("a") as listed:
        listed.writelines(f'\n{{"file_name": "{name}"}}' for name in odd)
    Image.fromarray(np.zeros((32, 32), dtype=np.float32)).save(folder / "float.tif")
    for name in ("torn.png", "a/torn.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((drawn / "0000.png").read_bytes()[:100])
    after, said = judged(capsys, folder, "--reference", real)
    (line,) = [line for line in said.splitlines() if line.startswith("warning")]
    assert line == (
        f"warning: 3 of 43 pictures in {folder} can't be used and are left out: corrupt image (2, first a/torn.jpg), "
        "floating-point image (1, first float.tif)"
    )
    assert shown(after) == shown(before)
    assert after["precision"].details["excluded"] == {"corrupt image": 2, "floating-point image": 1}
    Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)).save(folder / "grey.png")
    (folder / "deep.png").write_bytes(deep_colour(side=32))
    changed, said = judged(capsys, folder, "--reference", real)
    assert (
        "2 of 45 pictures in " in said
        and "were changed: 16-bit colour cut to 8 bits (1, first deep.png), 16-bit" in said
    )
    assert changed["precision"].n == 42 and changed["clip_score"].n == COUNT
    assert changed["precision"].details["changed"] == {
        "16-bit colour cut to 8 bits": 1, "16-bit grey scaled to 8 bits": 1
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ what is said


@pytest.mark.timeout(120)  # where a pipe is waited for, it is for ever
def test_a_pipe_and_an_enormous_file_are_no_pictures(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(drawn, folder)
    (folder / "metadata.jsonl").unlink()
    for name in ("0000.txt", "pipe.png"):
        os.mkfifo(folder / name)
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    for number in range(1, 4):
        (folder / f"{number:04}.txt").write_text("a red circle")
    found, said = judged(capsys, folder)
    assert found["clip_score"].n == 3
    (line,) = [line for line in said.splitlines() if line.startswith("warning")]
    assert "unreadable image file (1, first pipe.png)" in line and "image too large (1, first sparse.png)" in line


def test_the_json_is_the_same_in_the_file_and_reads_as_estimates(
    drawn: Path, real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "numbers.json"
    words = ["judge", str(drawn), "--reference", str(real), "--to", str(target), *SMALL]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads(target.read_text()) == told
    assert cli.main(words) == 0 and json.loads(target.read_text()) == told  # its own are written anew
    for name, values in told.items():
        assert Estimate.from_json(values).to_json() == values, name
    assert told[f"fd_{LITE0}"]["details"]["resize"].endswith("to 64") and told[f"fd_{LITE0}"]["details"]["batch"] == 32


def test_the_table_has_the_numbers_and_notes_say_what_they_are(
    drawn: Path, real: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["judge", str(drawn), "--reference", str(real), *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{drawn} against {real}, with 95% intervals\n  fd_{LITE0} ")
    assert "n is no larger than the number of features" in out
    assert judge.NULL.format(held=20, rest=20) in out
    assert "missing: fid, fid_matched, null_fid, kid, kid_matched, null_kid: " in out
    assert f"features: 1280 of {LITE0} (weights 579344248a93e230; bicubic, antialias, float, clamped, to 64;" in out


def test_inception_with_the_official_weights_gives_fid(
    drawn: Path, real: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Official:
        """Inception-v3 to its users: the mean of each channel, and how much it varies."""

        name, weights_hash, resize, feature_size, official = "inception_v3", "6726825d", "to 299", 6, True

        def extract(self, pictures: NDArray[np.uint8], batch: int = 32) -> NDArray[np.float32]:
            return np.concatenate([pictures.mean((1, 2)), pictures.std((1, 2))], 1).astype(np.float32)

    before, _ = judged(capsys, drawn, "--reference", real)
    assert {before[name].value for name in FID if "vae" not in name} == {None}
    monkeypatch.setattr(judge, "inception_of", lambda *_: Official())
    found, _ = judged(capsys, drawn, "--reference", real)
    assert value(found, "fid") > value(found, "null_fid") and found["fid"].details["extractor"] == "inception_v3"
    assert not found["fid"].details["rank_deficient"] and found["fid_matched"].n == found["null_kid"].n == COUNT // 2
    assert shown({"": found["precision"]}) == shown({"": before["precision"]})  # of the extractor, as in a run
    assert set(found) == set(before)


def test_a_runs_folder_means_its_drawn_pictures_against_its_true_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of("dual_tower")
    kept = []
    (tmp_path / "samples").mkdir()
    for number, sample in enumerate(samples("test", 16)):
        drawn, true = f"samples/{number:04}.png", f"samples/{number:04}-true.png"
        Image.fromarray(sample.image // 2).save(tmp_path / drawn)
        for path in (true, f"samples/{number:04}-nearest.png"):
            Image.fromarray(sample.image).save(tmp_path / path)
        kept.append(schema.Sample(key=str(number), prompt=sample.caption, true=true, drawn=drawn))
    shown_only = schema.Sample(key="later", prompt="a circle")
    schema.save(replace(record, samples=(*kept, shown_only)), tmp_path)
    found, said = judged(capsys, tmp_path)
    captions = [sample.caption for sample in samples("test", 16)]
    apart = Path(save(tmp_path.parent / f"{tmp_path.name}-drawn", images("test", 16) // 2))
    describe(apart, {f"{number:04}.png": text for number, text in enumerate(captions)})
    true_ones = save(tmp_path.parent / f"{tmp_path.name}-true", images("test", 16))
    assert shown(found) == shown(judged(capsys, apart, "--reference", true_ones)[0])
    assert found["clip_score"].n == 16 and "kept 16 drawn pictures one by one" in said
    assert cli.main(["judge", str(tmp_path / "samples"), "--reference", str(apart)]) == 2
    assert (
        "drawn, true and nearest pictures beside each other: expected the run's own folder" in capsys.readouterr().err
    )


MISTAKES = [
    ("", "'judge' needs DRAWN, a folder of pictures, or a run's folder"),
    ("no/such --reference {real}", "DRAWN no/such: no such folder, expected a folder of pictures"),
    ("{drawn}/0000.png --reference {real}", "0000.png: not a folder, expected a folder of pictures"),
    ("{drawn} --reference no/such", "--reference no/such: no such folder, expected a folder of real pictures"),
    ("{drawn} --reference {drawn}/inner", "lie one inside the other"),
    ("{drawn}/inner --reference {real}", "inner has 1 picture that can be used, expected at least 2"),
    ("{real} --reference {drawn}/torn", "torn has 0 pictures that can be used, expected at least 2 (2 of 2 pictures"),
    ("{empty} --reference {real}", "no pictures in {empty}, expected png, jpg, webp or bmp files"),
    ("{real}", "there is nothing to judge {real} by: expected --reference FOLDER of real pictures, or captions"),
    ("{drawn} --reference {real} --extractor efficientnet", "did you mean 'efficientnet_lite0'?"),
    ("{drawn} --reference {real} --extractor dinov2", "--extractor is 'dinov2', which can't run here: "),
    ("{drawn} --reference {real} --extractor-input 8", "extractor_input is 8, expected a value from 32 to 1024"),
    ("{drawn} --reference {real} --inception no.pth", "--inception no.pth: no such file"),
    ("{drawn} --clip ViT-L-15/openai", "--clip is 'ViT-L-15/openai', which is of no architecture that open_clip has"),
    ("{drawn} --batch 0", "batch is 0, expected a value from 1"),
    ("{drawn} --to {real}", "--to {real} is a folder, expected a file"),
    ("{drawn} --to {drawn}/0000.png", "0000.png is there already, and holds no numbers that `judge` wrote"),
    ("{drawn} --to {runs}/one/record.json", "record.json is there already, and holds no numbers that `judge` wrote"),
    ("{drawn} --to /dev/full", "--to /dev/full is there already, and holds no numbers"),
    (
        "{runs} --reference {real}",
        "DRAWN {runs} holds runs, each with several kinds of pictures: expected one, as {runs}/",
    ),
    ("{drawn} --reference {runs}", "--reference {runs} holds runs, each with several kinds of pictures: expected one"),
    ("~nobody_of_this_name --reference {real}", "DRAWN ~nobody_of_this_name: no such folder"),
    ("{drawn} --refrence {real}", "did you mean --reference?"),
]


@pytest.mark.parametrize(("line", "sentence"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_gets_one_sentence(
    line: str,
    sentence: str,
    drawn: Path,
    real: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    copy, empty = tmp_path / "copy", tmp_path / "empty"
    shutil.copytree(drawn, copy)
    for name in ("inner", "torn", "../empty"):
        (copy / name).mkdir()
    shutil.copy(drawn / "0000.png", copy / "inner")
    for name in "ab":
        (copy / "torn" / f"{name}.png").write_bytes(b"no picture")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "record.json").write_text('{"name": "one"}')
    places = {"drawn": str(copy), "real": str(real), "empty": str(empty), "runs": str(tmp_path / "runs")}
    assert cli.main(["judge", *(word.format(**places) for word in line.split())]) == 2
    captured = capsys.readouterr()
    said = [text for text in captured.err.splitlines() if not text.startswith("reading ")]
    assert captured.out == "" and len(said) == 1, captured.err
    assert said[0].startswith("error: ") and sentence.format(**places) in said[0]


def test_where_nothing_can_be_measured_the_reason_is_the_mistake(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert cli.main(["judge", str(drawn), "--clip", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "\nerror: nothing could be measured: the CLIP model" in captured.err
