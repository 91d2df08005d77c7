"""Contact sheets: every picture is on the sheet, pixel for pixel, whatever its caption is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from approaches.shared.diffusion import Diffusion
from approaches.shared.randomness import generator
from approaches.shared.vae import LatentCodec
from bench import preview
from bench.console import Console
from bench.data.shapes import Shapes
from bench.presets import preset
from bench.preview import LINE, LINES, MARGIN, TILE, sheet
from bench.preview_arguments import PreviewArguments

Picture = NDArray[np.uint8]


def pictures(count: int, side: int) -> list[Picture]:
    return list(np.random.default_rng(side).integers(0, 256, size=(count, side, side, 3), dtype=np.uint8))


def enlarged(image: Picture) -> Picture:
    """Each pixel as a square of equal pixels."""
    times = max(1, TILE // len(image))
    return np.repeat(np.repeat(image, times, axis=0), times, axis=1)


def check_sheet(page: Image.Image, groups: list[list[Picture]]) -> None:
    """Every picture at its place: groups in reading order, a group's pictures side by side."""
    pixels = np.asarray(page)
    side = len(enlarged(groups[0][0]))
    width, height = side * len(groups[0]), side + LINES * LINE + 4
    columns = (page.width - MARGIN) // (width + MARGIN)
    assert page.width == columns * (width + MARGIN) + MARGIN
    assert page.height == -(-len(groups) // columns) * (height + MARGIN) + MARGIN
    for number, group in enumerate(groups):
        top = MARGIN + number // columns * (height + MARGIN)
        left = MARGIN + number % columns * (width + MARGIN)
        for place, image in enumerate(group):
            start = left + place * side
            np.testing.assert_array_equal(pixels[top : top + side, start : start + side], enlarged(image))


@pytest.mark.parametrize(("count", "together", "side"), [(1, 1, 32), (7, 1, 32), (12, 2, 64), (5, 6, 8), (3, 1, 256)])
def test_every_picture_is_at_its_place(count: int, together: int, side: int) -> None:
    drawn = pictures(count * together, side)
    groups = [drawn[i : i + together] for i in range(0, len(drawn), together)]
    check_sheet(sheet(groups, ["a red circle"] * count), groups)


@pytest.mark.parametrize("caption", ["word " * 1000, "W" * 5000, "\n" * 5000, "😀圆" * 2500, ""])
def test_no_caption_does_harm(caption: str) -> None:
    groups = [[image] for image in pictures(6, 32)]
    plain, harmed = sheet(groups, [""] * 6), sheet(groups, [caption] * 6)
    assert plain.size == harmed.size
    check_sheet(harmed, groups)


def test_a_caption_is_written_below_its_picture() -> None:
    groups = [[image] for image in pictures(1, 32)]
    blank, said = (np.asarray(sheet(groups, [text])) for text in ("", "a red circle"))
    rows = np.flatnonzero((blank != said).any(axis=(1, 2)))
    assert rows.min() >= MARGIN + TILE and rows.max() < MARGIN + TILE + 2 + LINE


def test_main_writes_the_validation_pictures(tmp_path: Path) -> None:
    config = preset("smoke")
    arguments = PreviewArguments(datasets=("shapes",), out=tmp_path / "new", count=5)
    assert preview.main(arguments, config, Console(interval=1e9)) == 0
    assert [path.name for path in arguments.out.iterdir()] == ["shapes.png"]
    assert PreviewArguments().shown(config) == ("shapes", "emoji")
    both = PreviewArguments(datasets=("shapes", "emoji"))
    other = replace(config, data=replace(config.data, path="a/font.ttf"))  # not for the world of shapes
    assert [both.data(name, other).path for name in ("shapes", "emoji")] == [None, "a/font.ttf"]
    assert arguments.data("shapes", other).path == "a/font.ttf"  # nobody else's: to be refused
    named = replace(config, data=replace(config.data, name="folder", path="mine"))
    assert PreviewArguments().shown(named) == ("folder",) and arguments.shown(named) == ("shapes",)
    with Image.open(arguments.out / "shapes.png") as page:
        check_sheet(page, [[sample.image] for sample in Shapes.build(config.data, "validation").first(5)])


def test_a_vae_is_shown_beside_what_it_rebuilds_and_from_clean_to_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, codec = preset("smoke"), LatentCodec.load("shipped:vae-tiny")
    arguments = PreviewArguments(datasets=("shapes",), out=tmp_path / "new", count=3, vae=True)
    assert preview.main(arguments, config, Console(interval=1e9)) == 0
    true = np.stack([sample.image for sample in Shapes.build(config.data, "validation").first(3)])
    latents = codec.encode_images(true)
    rebuilt = codec.decode_images(latents)
    with Image.open(arguments.out / "shapes-vae.png") as page:
        check_sheet(page, [[a, b] for a, b in zip(true, rebuilt, strict=True)])
    ratios = [peak_signal_noise_ratio(a, b) for a, b in zip(true, rebuilt, strict=True)]
    assert f"shapes-vae.png: mean PSNR {np.mean(ratios):.2f} dB over 3 pictures" in capsys.readouterr().out
    noise = Diffusion().noise_like(latents, generator(config.seed, "preview"))
    with Image.open(arguments.out / "shapes-noising.png") as page:
        steps = [codec.decode_images((1 - t) * latents + t * noise) for t in preview.TIMES]
        assert tuple(sorted(preview.TIMES)) == preview.TIMES and preview.TIMES[0] == 0
        check_sheet(page, [[step[row] for step in steps] for row in range(3)])


def peak_signal_noise_ratio(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))
