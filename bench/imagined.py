"""Models and batches that have shapes and no values, at full size, in no memory: what `python -m bench plan` counts on.

torch's fake tensors carry shape, type and device through any code. So an approach is built as it always is, its losses
are computed and its gradients flow, and whatever was read, multiplied or held can be counted, before there is a weight.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bench.torchvision_guard  # noqa: F401  (before transformers and diffusers, which import torchvision)
from approaches.base import Approach, Batch, Captioned, Shared
from approaches.shared.diffusion import signal_power
from approaches.shared.encoder import Encoder
from approaches.shared.kernels import causal_mask, choose
from approaches.shared.language_model import LanguageModel, config_of
from approaches.shared.prompts import lead
from approaches.shared.randomness import generator
from approaches.shared.sources import Source, check_layers, resolve
from approaches.shared.transformer import Transformer, TransformerConfig
from approaches.shared.unpacked import folder_of
from approaches.shared.vae import LatentCodec
from bench.assembly import shared_of
from bench.batches import led
from bench.config import Config
from bench.errors import UserError, first_line
from bench.files import hash_file, read_json
from bench.known_shapes import AUTOENCODERS, LANGUAGE_MODELS
from bench.meter import storage_of
from bench.reach import hub_or_cache

CHARACTERS = 4  # a token, of a tokenizer that is not at hand


class _Unknown(TorchDispatchMode):
    """A number that is read out of a tensor without values is one, a truth is false: as of a model before training.
    Its memory is pinned already: torch knows no such operation there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook: one operation."""
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            return False if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if func is torch.ops.aten._pin_memory.default:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def imagining() -> Iterator[None]:
    """Inside, every new tensor has a shape and no values."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # of what is counted
            with FakeTensorMode(allow_non_fake_inputs=True), _Unknown():  # type: ignore[no-untyped-call]
                yield
    finally:
        for kept in (causal_mask, signal_power):  # made inside, they have no values either
            kept.cache_clear()


class Held(TorchDispatchMode):
    """The bytes that are alive at once of all tensors made inside, but of `parameters` and their gradients.

    peak: the most of them so far. Inside `imagining`, nothing is really held.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {storage_of(parameter): 0 for parameter in parameters}
        self._now = self.peak = 0
        self._hooks = [p.register_post_accumulate_grad_hook(self._gradient) for p in parameters if p.requires_grad]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's hook: one operation."""
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and (key := storage_of(value)) not in self._known:
                storage = value.untyped_storage()
                self._known[key] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self._now)
        return found

    def release(self) -> None:
        """Let the parameters go."""
        for hook in self._hooks:
            hook.remove()

    def _gone(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)

    def _gradient(self, parameter: Tensor) -> None:
        """From here on a parameter's gradient is counted as such, elsewhere."""
        assert parameter.grad is not None
        key = storage_of(parameter.grad)
        self._now -= self._known.get(key, 0)
        self._known[key] = 0


# ---------------------------------------------------------------------------------------------------------- models


class CountedTokens:
    """In place of a tokenizer that is not at hand: as many tokens as a text of its length usually has."""

    def __init__(self, start_id: int, end_id: int) -> None:
        self.bos_token_id, self.eos_token_id = start_id, end_id

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids without meaning."""
        return [0] * -(-len(text) // CHARACTERS)


def imagine(config: Config) -> Shared:
    """What all approaches reuse, of the shapes that a config names, inside `imagining`. UserError where a shape is
    not known here, or does not fit."""
    codec = LatentCodec(_autoencoder(resolve(config.model.vae, field="model.vae")))
    model = _language_model(resolve(config.model.lm, field="model.lm"))
    if not config.model.encoder:
        return shared_of(config, codec, model, choose("cpu"), None)
    from metrics.features import open_extractor

    known = open_extractor(config.model.encoder)
    encoder = Encoder(
        features=lambda pictures: torch.zeros(len(pictures), known.feature_size),
        width=known.feature_size,
        parameter_count=sum(p.numel() for p in known.parameters()),
    )
    return shared_of(config, codec, model, choose("cpu"), encoder)


def _language_model(source: Source) -> LanguageModel:
    shape, ends = _shape_of(source)
    return LanguageModel(Transformer(shape, choose("cpu")), tokenizer_of(source) or CountedTokens(*ends))


@lru_cache(maxsize=8)
def _shape_of(source: Source) -> tuple[TransformerConfig, tuple[int, int]]:
    """A language model's shape, and the tokens that texts start after and end with."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if (known := LANGUAGE_MODELS.get(source.name)) is not None:
            values = {name: value for name, value in known.items() if name != "model_type"}
            config: Any = AutoConfig.for_model(known["model_type"], **values)
        else:
            location, options = _place(source)
            with hub_or_cache(needed=source.path is None):
                config = AutoConfig.from_pretrained(location, trust_remote_code=False, **options)
            check_layers(config.to_dict(), source)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except UserError:
        raise
    except Exception as error:  # strict configs have errors of their own
        raise UserError(_unknown("model.lm", source, LANGUAGE_MODELS, error)) from error
    return config_of(model), _ends(config)


@lru_cache(maxsize=8)
def tokenizer_of(source: Source) -> Any:
    """The tokenizer of a local source; None where it is not at hand."""
    from transformers import AutoTokenizer

    if source.path is None:
        return None
    location, options = _place(source)
    try:
        return AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
    except Exception:  # tokenizers raises plain ones
        return None


def _place(source: Source) -> tuple[str, dict[str, Any]]:
    """What transformers' `from_pretrained` takes for a source."""
    if source.gguf is not None:
        if (kept := folder_of(hash_file(source.gguf))).is_dir():  # read in seconds, the file itself in many
            return str(kept), {"local_files_only": True}
        return str(source.gguf.parent), {"gguf_file": source.gguf.name, "local_files_only": True}
    if source.path is not None:
        return source.location, {"local_files_only": True}
    return source.location, {"subfolder": source.subfolder, "revision": source.revision}


def _ends(config: Any) -> tuple[int, int]:
    start, end = config.bos_token_id, config.eos_token_id
    end = int(end[0] if isinstance(end, list) else end or 0)
    return int(end if start is None else start), end


def _autoencoder(source: Source) -> Any:
    from diffusers import AutoencoderKL, AutoencoderTiny

    try:
        if (values := AUTOENCODERS.get(source.name)) is None:
            if source.path is not None:
                values = read_json(source.path / "config.json")
            else:
                values = AutoencoderKL.load_config(
                    source.location, subfolder=source.subfolder or None, revision=source.revision
                )
        kind: Any = AutoencoderTiny if values.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
        return kind.from_config(values)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise UserError(_unknown("model.vae", source, AUTOENCODERS, error)) from error


def _unknown(field: str, source: Source, known: dict[str, Any], error: Exception) -> str:
    return (
        f"the shape of {field} '{source.text}' is not known here ({first_line(error)}), expected a folder with its "
        f"config.json or one of: {', '.join(known)}"
    )


# --------------------------------------------------------------------------------------------------------- batches


def blank_batch(
    shared: Shared, rows: tuple[int, int, int], *, levels: int, caption: int, window: int, picture: int
) -> Batch:
    """A batch of `rows` (to draw, each at `levels` levels of noise, to describe, windows of text), every caption
    `caption` tokens long with its start and end, every window of `window` predictions; pictures only where an encoder
    looks at them."""
    draw, describe, windows = rows
    shape = (shared.codecs["image"].channels, shared.latent_size, shared.latent_size)

    def captioned(count: int) -> Captioned:
        looked_at: Any = torch.zeros(count, picture, picture, 3, dtype=torch.uint8) if shared.encoder else None
        return Captioned(
            latents=torch.zeros(count, *shape),
            tokens=torch.zeros(count, caption, dtype=torch.long),
            mask=torch.ones(count, caption, dtype=torch.bool),
            captions=("a picture",) * count,
            scenes=(None,) * count,
            pictures=looked_at,
        )

    return Batch(
        step=0,
        draw=captioned(draw),
        times=torch.zeros(draw * levels),
        noise=torch.zeros(draw * levels, *shape),
        empty=torch.zeros(draw, dtype=torch.bool),
        describe=led(captioned(describe), lead(shared.language_model, shared.describe_prompt)),
        text=torch.zeros(windows, window + 1, dtype=torch.long),
    )


def backward(approach: Approach, batch: Batch) -> None:
    """One step's losses and gradients, as training has them."""
    losses = approach.losses(batch, lambda purpose: generator(0, purpose))
    terms = [loss.weight * loss.sum.float() / loss.count for loss in losses.values()]
    torch.stack(terms).sum().backward()
