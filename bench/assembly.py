"""Config to models: what all approaches share, an approach before training, and one with the weights of a done run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from approaches.base import Approach, Shared
from approaches.registry import APPROACHES
from approaches.shared.encoder import Encoder
from approaches.shared.kernels import Kernels, choose
from approaches.shared.language_model import LanguageModel
from approaches.shared.prompts import check_room
from approaches.shared.sources import check_safetensors
from approaches.shared.vae import LatentCodec
from bench import launch, store
from bench.batches import diffusion_of
from bench.config import Config, from_values
from bench.contents import as_made, check_models, check_weights
from bench.errors import UserError
from bench.owed import check_class


def device_here() -> torch.device:
    """Where models live: CUDA where there is a device and no launcher was told to do without, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not launch.on_cpu() else "cpu")


def load_shared(config: Config, device: torch.device, *, training: bool = True) -> Shared:
    """What all approaches reuse, as a config names it; the language model still on the CPU, where fresh weights are
    drawn. UserError where a model can't be had, or does not fit the pictures."""
    kernels = kernels_for(config, device, training=training)
    codec = LatentCodec.load(config.model.vae).to(device)
    encoder = _encoder(config, device)
    return shared_of(config, codec, LanguageModel.load(config.model.lm, kernels=kernels), kernels, encoder)


def load_shared_for(request: store.Request, device: torch.device, *, training: bool = True) -> Shared:
    """What a run reuses: the models that it was asked for with. UserError where they are others by now, too."""
    check_models(request)
    shared = load_shared(as_made(request), device, training=training)
    loaded = {"lm": shared.language_model.weights_hash, "vae": shared.codecs["image"].weights_hash}
    check_weights(request, loaded)
    return shared


def check_fit(config: Config, codec: LatentCodec) -> None:
    """UserError where pictures don't divide into the codec's latents and these into patches."""
    side, rest = divmod(config.data.size, codec.factor)
    if rest or side % config.train.patch:
        raise UserError(
            f"data.size is {config.data.size}, expected a multiple of {codec.factor * config.train.patch}: the VAE "
            f"shrinks pictures by {codec.factor}, and an image token is {config.train.patch} latents wide (train.patch)"
        )


def shared_of(
    config: Config,
    codec: LatentCodec,
    language_model: LanguageModel,
    kernels: Kernels,
    encoder: Encoder | None,
) -> Shared:
    """What all approaches reuse, of models at hand. UserError where they don't fit the pictures, or a caption and the
    words before it the language model."""
    check_fit(config, codec)
    shared = Shared(
        language_model=language_model,
        codecs={"image": codec},
        diffusion=diffusion_of(config.diffusion),
        kernels=kernels,
        latent_size=config.data.size // codec.factor,
        patch=config.train.patch,
        patch_channels=config.train.patch_channels,
        caption_tokens=config.train.caption_tokens,
        describe_prompt=config.train.describe_prompt,
        seed=config.seed,
        encoder=encoder,
    )
    check_room(shared)
    return shared


def _encoder(config: Config, device: torch.device) -> Encoder | None:
    """The frozen network that approaches may align to."""
    if not config.model.encoder:
        return None
    from metrics.features import open_extractor

    extractor = open_extractor(config.model.encoder).to(device)
    return Encoder(
        features=lambda pictures: torch.from_numpy(extractor.extract(pictures)),
        width=extractor.feature_size,
        parameter_count=sum(p.numel() for p in extractor.parameters()),
    )


def kernels_for(config: Config, device: torch.device, *, training: bool = True) -> Kernels:
    """Those that a config names, or the device's own. UserError where one can't run there."""
    return choose(device, **asdict(config.kernels), training=training)


def build(request: store.Request, shared: Shared) -> Approach:
    """The approach of a request before training. UserError where its settings don't fit the shared models."""
    entry = APPROACHES[request.approach]
    settings, made = from_values(entry.load_settings(), request.settings), entry.load()
    check_class(request.approach, made)
    layers = [name for name, _ in shared.language_model.named_parameters()]
    approach: Approach = made(shared, settings)
    if [name for name, _ in shared.language_model.named_parameters()] != layers:
        raise UserError(
            f"approach '{request.approach}' has changed the layers of the shared language model, which its costs are "
            "counted by: change a copy.deepcopy of it, and make that self.language_model"
        )
    return approach


def untrained(request: store.Request, shared: Shared) -> LanguageModel:
    """A run's language model as it was before training, beside the models that the run's approach reuses."""
    model = LanguageModel.load(as_made(request).model.lm, kernels=shared.kernels)
    return model.to(shared.codecs["image"].device).eval().requires_grad_(False)


def open_trained(folder: Path, request: store.Request) -> Approach:
    """A trained approach in evaluation mode, with the averaged weights of its run. UserError where they are damaged or
    are another's, or where the frozen models are no longer those that it was trained on."""
    device = device_here()
    approach = build(request, load_shared_for(request, device, training=False)).to(device)
    path = folder / store.WEIGHTS
    check_safetensors(path)
    stored = load_file(path)
    wanted = approach.trained_state()
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored or name not in wanted or stored[name].shape != wanted[name].shape:
            raise UserError(
                f"{path} does not hold this approach's weights: {name} differs; remove the run and repeat it"
            )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(stored[name])
    return approach.eval()
