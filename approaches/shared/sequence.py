"""Mixed sequences of text and pictures: where each token stands, and who may attend to whom.

B batch, T tokens in a sequence, L text tokens of it, padding included; R rows of packed documents, each of T tokens.

    text_mask  B L  bool, True for the tokens of a text, False for its padding; all text segments in sequence order
    valid      B T  bool, text_mask with every image token True
    positions  B T  long, for rotary embeddings
    x          B T ...

The rule (Transfusion, arXiv 2408.11039, section 3): token q sees token k if k is valid and k stands no later than q, or
both belong to the same image. So text is causal, an image is bidirectional, and text before an image never sees it.

An image segment of n picture tokens takes n + 2 places: its begin-of-image token, the picture, its end-of-image token.
The frame's two tokens are the image's own: they attend and are attended to as the picture is.

The approaches read a sequence in parts, each once (interleaved.py); tests hold the parts to the whole that stands here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from approaches.shared.kernels.attention import AttentionMask

Modality = Literal["text", "image"]

FRAME = 2
"""Places that an image takes beside its picture: begin-of-image before it, end-of-image after it."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one modality; `length` counts text tokens, or picture tokens without the frame."""

    modality: Modality
    length: int

    def __post_init__(self) -> None:
        """Judge the fields."""
        if self.modality not in get_args(Modality):
            raise ValueError(f"unknown modality {self.modality!r}, expected one of {get_args(Modality)}")
        if self.length < 1:
            raise ValueError(f"a segment of {self.length} tokens, expected at least 1")

    @property
    def places(self) -> int:
        """Tokens in the sequence, frame included."""
        return self.length + (FRAME if self.modality == "image" else 0)


@dataclass(frozen=True)
class Layout:
    """The order of segments, fixed for a whole batch, so that the tokens of a modality are slices, not a gather."""

    segments: tuple[Segment, ...]

    @classmethod
    def text_first(cls, text: int, image: int) -> Layout:
        """Text to image: `text` text tokens, then a framed image of `image` picture tokens."""
        return cls((Segment("text", text), Segment("image", image)))

    @classmethod
    def image_first(cls, image: int, text: int) -> Layout:
        """Captioning: a framed image of `image` picture tokens, then `text` text tokens."""
        return cls((Segment("image", image), Segment("text", text)))

    @classmethod
    def text_only(cls, text: int) -> Layout:
        """A language model's own: `text` text tokens."""
        return cls((Segment("text", text),))

    @cached_property
    def length(self) -> int:
        """T."""
        return sum(segment.places for segment in self.segments)

    @cached_property
    def text_length(self) -> int:
        """L."""
        return sum(segment.length for segment in self.segments if segment.modality == "text")

    def slices(self, modality: Modality) -> tuple[slice, ...]:
        """Where the segments of a modality stand; an image with its frame."""
        ends = accumulate(segment.places for segment in self.segments)
        spans = zip(self.segments, ends, strict=True)
        return tuple(slice(end - s.places, end) for s, end in spans if s.modality == modality)

    def pictures(self) -> tuple[slice, ...]:
        """Where the picture tokens stand, without the frame: begin-of-image is at start - 1, end-of-image at stop."""
        return tuple(slice(span.start + 1, span.stop - 1) for span in self.slices("image"))

    def select(self, x: Tensor, modality: Modality) -> Tensor:
        """The tokens of a modality, B (their number) ...; a view where they are one slice."""
        parts = [x[:, span] for span in self.slices(modality)]
        if not parts:
            return x[:, :0]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def join(self, text: Tensor, image: Tensor) -> Tensor:
        """B T ... from what `select` gave for text and for image; exactly its inverse."""
        rest = {"text": text, "image": image}
        parts = []
        for segment in self.segments:
            parts.append(rest[segment.modality][:, : segment.places])
            rest[segment.modality] = rest[segment.modality][:, segment.places :]
        if left := {name: x.shape[1] for name, x in rest.items() if x.shape[1]}:
            raise ValueError(f"tokens without a place in {self}: {left}")
        joined = torch.cat(parts, 1)
        if joined.shape[1] != self.length:
            raise ValueError(f"{joined.shape[1]} tokens for the {self.length} places of {self}")
        return joined

    def valid(self, text_mask: Tensor) -> Tensor:
        """B T, from text_mask, B L."""
        if text_mask.dtype != torch.bool or text_mask.dim() != 2 or text_mask.shape[1] != self.text_length:
            shape = tuple(text_mask.shape)
            raise ValueError(f"a text mask is bool (B, {self.text_length}), not {text_mask.dtype} {shape}")
        image = text_mask.new_ones(len(text_mask), self.length - self.text_length)
        return self.join(text_mask, image)

    def positions(self, text_mask: Tensor | None = None, device: torch.device | str = "cpu") -> Tensor:
        """The number of valid tokens before each token: B T, or 1 T without a mask.

        A valid token's position is the one it would have in the sequence without any padding, on whichever side the
        padding is, so text has a language model's own positions. A padding token repeats the last valid one's, or 0.
        """
        if text_mask is None:
            return torch.arange(self.length, device=device)[None]
        return (self.valid(text_mask).long().cumsum(1) - 1).clamp(min=0)

    def image_ids(self, device: torch.device | str = "cpu") -> Tensor:
        """T: 1, 2, ... for the tokens of the first, second, ... image, 0 for text."""
        ids = torch.zeros(self.length, dtype=torch.long)
        for number, span in enumerate(self.slices("image"), 1):
            ids[span] = number
        return ids.to(device)


def attention_mask(
    layout: Layout,
    text_mask: Tensor | None = None,
    *,
    queries: slice | None = None,
    device: torch.device | str = "cpu",
) -> AttentionMask:
    """Who may attend to whom in a batch of one layout, over all T keys.

    text_mask: B L, or None where there is no padding (then one mask serves the whole batch, on `device`).
    queries: the part of the sequence that asks, with step 1: an image's slice where the text's keys and values are
    kept from before.
    """
    valid = None if text_mask is None else layout.valid(text_mask)
    image = layout.image_ids(device if valid is None else valid.device)
    first, stop, step = (queries or slice(None)).indices(layout.length)
    if step != 1 or stop <= first:
        raise ValueError(f"queries {queries} of {layout.length} tokens: expected a slice of step 1 that holds some")

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q = q + first
        seen = (k <= q) | ((image[q] == image[k]) & (image[k] > 0))
        return seen if valid is None else seen & valid[b, k]

    batch = None if valid is None else len(valid)
    return AttentionMask(rule, batch=batch, queries=stop - first, keys=layout.length, device=image.device)


def pack(lengths: Sequence[int], length: int) -> tuple[tuple[int, ...], ...]:
    """Documents of `lengths` tokens into rows of `length`: for each row the documents in it, by their index.

    First fit decreasing: the longest first, equal ones in order, each into the first row with room for it: at most
    11/9 of the fewest possible rows, plus 6/9 (Dosa 2007). ValueError where a document is empty or fits no row.
    """
    for index, needed in enumerate(lengths):
        if not 1 <= needed <= length:
            raise ValueError(f"document {index} has {needed} tokens, expected 1 to {length}")
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # free places -> heap of the rows that have them
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        needed = lengths[index]
        first = min((heap[0] for heap in with_room[needed:] if heap), default=None)
        if first is None:
            first, free = len(rows), length
            rows.append([])
        else:
            free = length - sum(lengths[i] for i in rows[first])
            heapq.heappop(with_room[free])
        rows[first].append(index)
        heapq.heappush(with_room[free - needed], first)
    return tuple(map(tuple, rows))


@dataclass(frozen=True)
class Packed:
    """Documents, each with its own layout and no padding inside, packed into rows of `length` tokens.

    A document attends to itself only, its positions start at 0, and what is left of a row is padding: seen by no token
    and seeing none. ValueError where there is no document, or one longer than a row.
    """

    documents: tuple[Layout, ...]
    length: int

    def __post_init__(self) -> None:
        """Judge the fields."""
        if not self.documents:
            raise ValueError("no documents to pack")
        if (longest := max(document.length for document in self.documents)) > self.length:
            raise ValueError(f"a document of {longest} tokens for rows of {self.length}")

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """For each of the R rows the documents in it, by their index."""
        return pack([document.length for document in self.documents], self.length)

    def places(self) -> Iterator[tuple[int, int, slice]]:
        """(document, row, slice) for each document, row by row."""
        for row, members in enumerate(self.rows):
            start = 0
            for index in members:
                stop = start + self.documents[index].length
                yield index, row, slice(start, stop)
                start = stop

    @cached_property
    def document_ids(self) -> Tensor:
        """R T long: the index of each token's document, -1 for padding."""
        return self.pack([torch.full((d.length,), i) for i, d in enumerate(self.documents)], fill=-1)

    @cached_property
    def positions(self) -> Tensor:
        """R T long: each token's place in its own document, 0 for padding."""
        return self.pack([torch.arange(document.length) for document in self.documents])

    @cached_property
    def image_ids(self) -> Tensor:
        """R T long: the number, from 1, of each token's image in its own document, 0 for text and padding."""
        return self.pack([document.image_ids() for document in self.documents])

    def is_modality(self, modality: Modality) -> Tensor:
        """R T bool: the tokens of a modality, frames with the images; padding is of none."""
        image = self.image_ids > 0
        return image if modality == "image" else ~image & (self.document_ids >= 0)

    def pack(self, documents: Sequence[Tensor], *, fill: float = 0) -> Tensor:
        """R T ... from one tensor (its length) ... a document, `fill` elsewhere."""
        got = [len(x) for x in documents]
        if got != [document.length for document in self.documents]:
            raise ValueError(f"documents of {got} tokens for {[document.length for document in self.documents]}")
        packed = documents[0].new_full((len(self.rows), self.length, *documents[0].shape[1:]), fill)
        for index, row, span in self.places():
            packed[row, span] = documents[index]
        return packed

    def unpack(self, x: Tensor) -> list[Tensor]:
        """One tensor a document, in the documents' order, from R T ...; views."""
        return [part for _, part in sorted(((i, x[row, span]) for i, row, span in self.places()), key=lambda p: p[0])]

    def attention_mask(self, device: torch.device | str = "cpu") -> AttentionMask:
        """R different masks of T queries over T keys: the rule above, inside each document."""
        document, image = self.document_ids.to(device), self.image_ids.to(device)

        def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            same_image = (image[b, q] == image[b, k]) & (image[b, k] > 0)
            same_document = (document[b, q] == document[b, k]) & (document[b, k] >= 0)
            return same_document & ((k <= q) | same_image)

        rows = len(self.rows)
        return AttentionMask(rule, batch=rows, queries=self.length, keys=self.length, device=device)
