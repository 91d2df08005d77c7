"""CLIP, through open_clip: unit embeddings of pictures and texts, and the scores made from them.

N pictures or texts, E embedding width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import bench.torchvision_guard  # noqa: F401  (before open_clip, which imports torchvision)
from bench.errors import UserError


class Clip:
    """An open_clip model with its own preprocessing and tokenizer.

    location: a folder with open_clip_config.json and weights, or MODEL/WEIGHTS (open_clip's architecture and its tag or
    file of weights). UserError where it can't be loaded.
    """

    def __init__(self, location: str) -> None:
        import open_clip

        folder = Path(location)
        name, _, weights = location.partition("/")
        try:
            if folder.is_dir():
                name = f"local-dir:{folder}"
                model, preprocess = open_clip.create_model_from_pretrained(name)
            else:
                model, preprocess = open_clip.create_model_from_pretrained(name, pretrained=weights or None)
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip raises plain Exceptions, RuntimeErrors and hub errors alike
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the CLIP model '{location}' can't be loaded: {reason}") from error
        self.model: Any = model.eval()
        self.preprocess: Any = preprocess
        self.tokenizer: Any = tokenizer

    @torch.no_grad()
    def embed_images(self, images: NDArray[np.uint8], *, batch: int = 128) -> Tensor:
        """uint8 N H W 3 -> N E, unit length. Floats are refused: CLIP's preprocessing rescales them silently."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UserError(f"CLIP takes uint8 pictures, N H W 3; these are {images.dtype} of shape {images.shape}")
        parts = []
        for start in range(0, len(images), batch):
            pictures = [self.preprocess(Image.fromarray(image)) for image in images[start : start + batch]]
            parts.append(nn.functional.normalize(self.model.encode_image(torch.stack(pictures)).float(), dim=-1))
        return torch.cat(parts)

    @torch.no_grad()
    def embed_texts(self, texts: list[str], *, batch: int = 256) -> Tensor:
        """N texts -> N E, unit length; a text past the model's context is cut by its tokenizer."""
        parts = []
        for start in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[start : start + batch])
            parts.append(nn.functional.normalize(self.model.encode_text(tokens).float(), dim=-1))
        return torch.cat(parts)
