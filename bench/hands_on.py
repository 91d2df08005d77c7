"""One trained system, all three ways: `python -m bench generate / caption / complete`, and from Python `bench.load`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from approaches.base import Approach, Capability, Prompt
from approaches.shared.decoding import Start, decode
from approaches.shared.randomness import generator
from bench import finding, prompt_file, store
from bench.assembly import open_trained
from bench.config import Config
from bench.console import Console, Progress
from bench.data import pictures
from bench.errors import UserError
from bench.files import atomic_path
from bench.hands_on_arguments import CaptionArguments, CompleteArguments, GenerateArguments, OnRun, free, place
from bench.preview import sheet
from bench.sampler import Sampling, draw
from bench.validation import check_bounds

GRID = 400  # pictures that a page still shows
Picture = Image.Image | NDArray[np.uint8] | Path | str


class Trained:
    """A done run, with its averaged weights. folder: the run's. request: what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request = store.Request.read(folder)
        self.approach: Approach = open_trained(folder, self.request)

    @property
    def config(self) -> Config:
        """The run's."""
        return self.request.config

    def generate(
        self,
        prompts: Sequence[str] | str,
        *,
        seed: int = 0,
        nfe: int | None = None,
        guidance: float | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """A picture for each prompt. The same seed, prompt and place in the list give the same picture. nfe, guidance:
        the run's own where None. UserError where the run can't draw, or a number is out of range."""
        words = [prompts] if isinstance(prompts, str) else list(prompts)
        check_bounds(GenerateArguments(seed=seed, nfe=nfe, guidance=guidance))
        self._require("generate", "draw")
        if not words:
            return []
        shared, own = self.approach.shared, self.config.diffusion
        sampling = Sampling(
            nfe=own.nfe if nfe is None else nfe, guidance=own.guidance if guidance is None else guidance
        )
        drawn = draw(
            self.approach,
            [Prompt.text(text) for text in words],
            sampling,
            seed=seed,
            batch=self.config.evaluate.batch,
            progress=progress,
        )
        return [Image.fromarray(image) for image in shared.codecs["image"].decode_images(drawn.latents)]

    @torch.no_grad()
    def caption(self, images: Sequence[Picture] | Picture, *, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """A caption for each picture: files, PIL images of any size and mode, or uint8 arrays H W 3. Greedy at
        temperature 0. UserError where the run can't describe, a picture can't be read, or a number is out of range."""
        check_bounds(CaptionArguments(seed=seed, temperature=temperature))
        self._require("caption", "describe")
        one = isinstance(images, Image.Image | np.ndarray | Path | str)
        several: list[Any] = [images] if one else [*images]  # type: ignore[misc]
        if not several:
            return []
        arrays = np.stack([as_array(image, self.config.data.size) for image in several])
        latents = self.approach.shared.codecs["image"].encode_images(arrays)
        model, found = self.approach.shared.language_model, list[str]()
        for start in range(0, len(latents), self.config.evaluate.batch):
            rows = latents[start : start + self.config.evaluate.batch]
            opening = self.approach.text_start([Prompt.image(latent) for latent in rows])
            limit = self.config.train.caption_tokens
            found += map(model.decode, self._rows(opening, limit, temperature, seed, first=start))
        return [text.strip() for text in found]

    @torch.no_grad()
    def complete(self, text: str, *, tokens: int = 32, temperature: float = 0.0, seed: int = 0) -> str:
        """What follows a text, at most `tokens` tokens of it. Greedy at temperature 0. UserError where the run can't
        continue text, there is no room for it, or a number is out of range."""
        check_bounds(CompleteArguments(seed=seed, tokens=tokens, temperature=temperature))
        self._require("complete", "continue text")
        model = self.approach.shared.language_model
        ids, room = model.encode(text), model.transformer.config.context
        if 1 + len(ids) + tokens > room:
            raise UserError(
                f"the text has {len(ids)} tokens, and {tokens} more don't fit into the language model's {room}: "
                "shorten it, or ask for fewer"
            )
        logits, state = self.approach.text_start([Prompt.text("")])
        if ids:
            device = next(self.approach.parameters()).device
            following, state = self.approach.text_step(torch.tensor([ids], device=device), state)
            logits = following[:, -1]
        more = self._rows((logits, state), tokens, temperature, seed, first=0)[0]
        before, whole = model.decode(ids), model.decode([*ids, *more])  # some tokenizers drop a space before a text
        return whole[len(before) :] if whole.startswith(before) else model.decode(more)

    def _rows(self, opening: Start, limit: int, temperature: float, seed: int, *, first: int) -> list[list[int]]:
        """The tokens that go on from an opening; each row draws from a stream of its own."""
        return decode(
            opening,
            self.approach.text_step,
            limit=limit,
            end_id=self.approach.shared.language_model.end_id,
            temperature=temperature,
            generators=[generator(seed, "write", first + row) for row in range(len(opening[0]))] if temperature else (),
        )

    def _require(self, capability: Capability, words: str) -> None:
        if capability not in self.approach.capabilities:
            raise UserError(f"run {self.folder.name} can't {words}: approach '{self.request.approach}' does not")


def load(run: str | Path, out: str | Path = "runs") -> Trained:
    """A done run by its folder, the beginning of its name or key, or an approach's name for its latest, under `out`.
    UserError that suggests the nearest."""
    return Trained(finding.find(str(run), Path(out)))


def as_array(image: Picture, size: int) -> NDArray[np.uint8]:
    """A picture as uint8 size size 3. UserError, naming the file, where it can't be read."""
    try:
        if isinstance(image, str | Path):
            return pictures.decode(Path(image), size)[0]
        return pictures.square(Image.fromarray(image) if isinstance(image, np.ndarray) else image, size)
    except (pictures.PictureError, TypeError) as error:  # the last from an array that is no picture
        raise UserError(f"{image if isinstance(image, str | Path) else 'a picture'} can't be used: {error}") from error


# ------------------------------------------------------------------------------------------------ the command line


def generate(arguments: GenerateArguments, config: Config, console: Console) -> int:
    """Write a file a picture, grid.png of the first GRID and a list of all into a folder; 0."""
    asked = [*arguments.texts, *([] if arguments.prompts is None else prompt_file.read(arguments.prompts))]
    trained = _opened(arguments, console)
    words = [prompt for prompt in asked for _ in range(arguments.count)]
    _tell_cut(trained, asked, console)
    to = place(arguments)
    try:
        with console.progress(len(words), "drawing") as progress:
            how: dict[str, Any] = {"nfe": arguments.nfe, "guidance": arguments.guidance, "progress": progress}
            drawn = trained.generate(words, seed=arguments.seed, **how)
    except BaseException:
        if arguments.to is None:
            with suppress(OSError):  # somebody put something into it
                to.rmdir()
        raise
    if (other := free(to)) != to:
        console.warn(f"another command has drawn into {to} meanwhile: these are in {other}")
        to = other
    paths = [to / f"{number:03}.png" for number in range(len(drawn))]
    for path, image in zip(paths, drawn, strict=True):
        _save(path, image)
    grid = to / "grid.png"
    _save(grid, sheet([[np.asarray(image)] for image in drawn[:GRID]], words[:GRID]))
    own = trained.config.diffusion
    how = {
        "run": trained.folder.name,
        "seed": arguments.seed,
        "nfe": own.nfe if arguments.nfe is None else arguments.nfe,
        "guidance": own.guidance if arguments.guidance is None else arguments.guidance,
    }
    listed = prompt_file.write(to, paths, words, count=arguments.count, how=how)
    if console.as_json:
        files: list[dict[str, Any]] = [{"prompt": p, "path": str(f)} for p, f in zip(words, paths, strict=True)]
        found = {"run": trained.folder.name, "grid": str(grid), "metadata": str(listed), "pictures": files}
        console.emit(found)
    else:
        made = "1 picture" if len(paths) == 1 else f"{len(paths)} pictures"
        shown = "all of them" if len(paths) <= GRID else f"the first {GRID}"
        console.info(f"{trained.folder.name}: {made} in {to}, {shown} on {grid}")
    return 0


def caption(arguments: CaptionArguments, config: Config, console: Console) -> int:
    """Print a caption for each picture; 0."""
    trained = _opened(arguments, console)
    texts = trained.caption(arguments.pictures, temperature=arguments.temperature, seed=arguments.seed)
    pairs = list(zip(map(str, arguments.pictures), texts, strict=True))
    if console.as_json:
        rows = [{"picture": path, "caption": text} for path, text in pairs]
        console.emit({"run": trained.folder.name, "captions": rows})
    for path, text in [] if console.as_json else pairs:
        console.info(f"{path}: {text}")
    return 0


def complete(arguments: CompleteArguments, config: Config, console: Console) -> int:
    """Print each text with its continuation; 0."""
    trained = _opened(arguments, console)
    rows = []
    for text in arguments.texts:
        more = trained.complete(text, tokens=arguments.tokens, temperature=arguments.temperature, seed=arguments.seed)
        rows.append({"text": text, "continuation": more})
        if not console.as_json:
            console.info(text + more)
    if console.as_json:
        console.emit({"run": trained.folder.name, "texts": rows})
    return 0


def _opened(arguments: OnRun, console: Console) -> Trained:
    """The run, with a warning where another package's approach is not the code that it was trained by."""
    trained = load(arguments.run, arguments.out)
    if "foreign sources" in store.other_sources(trained.request):
        whose = f"the package of approach '{trained.request.approach}'"
        console.warn(f"{whose} has changed since {trained.folder.name} was made")
    return trained


def _tell_cut(trained: Trained, prompts: Sequence[str], console: Console) -> None:
    """A prompt longer than what the run was trained to read is cut, and not without a word."""
    room = trained.config.train.caption_tokens - 2  # the start token, and room for the end
    for prompt in prompts:
        if (length := len(trained.approach.shared.language_model.encode(prompt))) > room:
            console.warn(f"'{prompt[:40]}...' has {length} tokens, and this run reads the first {room}")


def _save(path: Path, image: Image.Image) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG")
