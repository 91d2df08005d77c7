"""Contact sheets: what the datasets hold, what the VAE makes of it, and how noise takes a picture away."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.config import Config
from bench.console import Console
from bench.data.catalogue import open_dataset
from bench.files import atomic_path
from bench.preview_arguments import PreviewArguments

if TYPE_CHECKING:
    from approaches.shared.vae import LatentCodec

TILE = 128  # least side of a picture on the sheet, in pixels
MARGIN = 8
LINES = 4  # of caption
LINE = 12  # pixels
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the noising strip


def main(arguments: PreviewArguments, config: Config, console: Console) -> int:
    """Write one sheet a dataset to OUT, and with --vae its reconstructions and a strip of noised pictures."""
    codec = None
    if arguments.vae:
        from approaches.shared.vae import LatentCodec

        codec = LatentCodec.load(config.model.vae)
    for name in arguments.shown(config):
        dataset = open_dataset(arguments.data(name, config), "validation")
        samples = dataset.first(arguments.count)
        images = np.stack([sample.image for sample in samples])
        captions = [sample.caption for sample in samples]
        _save(arguments.out / f"{name}.png", sheet([[image] for image in images], captions), console)
        if dataset.exclusions:
            console.info(f"{name}: " + ", ".join(f"{count} x {why}" for why, count in dataset.exclusions.items()))
        if codec is not None:
            _reconstructions(codec, images, captions, arguments.out / f"{name}-vae.png", console)
            _noising(codec, config, images[:12], arguments.out / f"{name}-noising.png", console)
    return 0


def sheet(groups: list[list[NDArray[np.uint8]]], captions: list[str]) -> Image.Image:
    """Groups of equal pictures (uint8 H W 3), each group side by side over its caption, in a grid."""
    tile = max(TILE, groups[0][0].shape[0])
    width, height = tile * len(groups[0]), tile + LINES * LINE + 4
    columns = max(1, min(len(groups), round((len(groups) * height / width) ** 0.5)))
    rows = -(-len(groups) // columns)
    page = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, rows * (height + MARGIN) + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    for number, (group, caption) in enumerate(zip(groups, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (width + MARGIN), MARGIN + row * (height + MARGIN)
        for place, image in enumerate(group):
            enlarged = Image.fromarray(image).resize((tile, tile), Image.Resampling.NEAREST)
            page.paste(enlarged, (left + place * tile, top))
        lines = textwrap.wrap(caption, max(8, width // 6))
        if len(lines) > LINES:
            lines = [*lines[: LINES - 1], lines[LINES - 1] + " ..."]
        draw.multiline_text((left, top + tile + 2), "\n".join(lines), fill="black", font=font, spacing=2)
    return page


def _reconstructions(
    codec: LatentCodec, images: NDArray[np.uint8], captions: list[str], path: Path, console: Console
) -> None:
    """Each picture beside its reconstruction, under both its peak signal-to-noise ratio."""
    rebuilt = codec.decode_images(codec.encode_images(images))
    error = np.square(images.astype(float) - rebuilt.astype(float)).mean(axis=(1, 2, 3))
    decibels = 10 * np.log10(255**2 / np.maximum(error, 1e-3))
    words = [f"{value:.1f} dB  {caption}" for value, caption in zip(decibels, captions, strict=True)]
    _save(path, sheet([[a, b] for a, b in zip(images, rebuilt, strict=True)], words), console)
    console.info(f"{path.name}: mean PSNR {decibels.mean():.2f} dB over {len(images)} pictures")


def _noising(codec: LatentCodec, config: Config, images: NDArray[np.uint8], path: Path, console: Console) -> None:
    """The forward process: each picture's latent with growing noise, decoded."""
    from approaches.shared.randomness import generator
    from bench.batches import diffusion_of

    diffusion = diffusion_of(config.diffusion)
    x_0 = codec.encode_images(images)
    noise = diffusion.noise_like(x_0, generator(config.seed, "preview"))
    steps = [codec.decode_images(x_t) for x_t in diffusion.forward_trajectory(x_0, noise, TIMES)]
    groups = [[step[i] for step in steps] for i in range(len(images))]
    words = ["t = " + ", ".join(map(str, TIMES))] * len(groups)
    _save(path, sheet(groups, words), console)


def _save(path: Path, page: Image.Image, console: Console) -> None:
    with atomic_path(path) as part:
        page.save(part, format="PNG")
    console.info(f"wrote {path}")
