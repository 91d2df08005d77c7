"""The arithmetic of a plan: counts in, bytes, seconds and the lines that show how they come about out. Closed forms
over plain numbers; imports no torch.

T trained parameters, P all of an approach's, V the VAE's, N GPUs. Weights, gradients, the optimizer's moments (two of a
parameter; Muon keeps one) and the moving average are float32, 4 bytes each; what is computed with is bfloat16 where the
precision says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.config import Config
from bench.data.catalogue import DATASETS, UNSEEN, UNSEEN_LOOKED
from bench.errors import UserError

FP32, BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One approach at a config's sizes.

    total, trainable, active, borrowed: parameters, see `bench.meter.parameters`. hidden: those of the trained in the
    matrices of blocks, see `Approach.hidden_matrices`. codec: the VAE's. latent_values: of a picture. largest_block,
    outside: parameters of one unit of sharding, and of what is in none. rows: of a batch, to draw, to describe, windows
    of text; part: of what one GPU works through at a time. forward, step: FLOPs of a batch's losses (None where no step
    takes them alone), and with their gradients. update: FLOPs of the optimizer. condition, denoise: of a prompt, and of
    one evaluation of one picture. encode: of a picture by the VAE. activations: bytes that a part holds at once, beside
    weights and gradients. validation: that a batch of the fixed triples holds, without gradients. encoding: that the
    pictures hold which the VAE encodes at a time. together: of the matrices that Muon works on at a time.
    """

    total: int
    trainable: int
    hidden: int
    active: int | None
    borrowed: dict[str, int]
    codec: int
    latent_values: int
    largest_block: int
    outside: int
    rows: tuple[int, int, int]
    part: tuple[int, int, int]
    caption_tokens: int
    captions_of: str
    image_tokens: int
    forward: int | None
    step: int
    update: int
    condition: int
    denoise: int
    encode: int
    activations: int
    validation: int
    encoding: int
    together: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the training is to run on. name: of a kind of GPU, or "here". peak: FLOP/s of one in training's arithmetic,
    peak_fp32: in float32, peak_tf32: in that of a float32 convolution. memory: bytes of one. mfu: share of the peak
    that training reaches, and whose figure that is; taken for all other work too. host: whether it is a CPU, whose
    memory holds a checkpoint too while it is put together."""

    name: str
    gpus: int
    peak: float
    peak_fp32: float
    peak_tf32: float
    memory: float
    mfu: float
    mfu_of: str
    bf16: bool
    host: bool = False

    @property
    def speed(self) -> float:
        """FLOP/s of all together in training."""
        return self.gpus * self.peak * self.mfu


# ---------------------------------------------------------------------------------------------------------- memory


def memory(counts: Counts, config: Config, machine: Machine) -> dict[str, dict[str, float]]:
    """Bytes on each GPU by what they hold: under DDP, where each GPU has everything, and under FSDP, which shares
    weights, gradients, moments and average out and gathers blocks, in float32, as they are needed. Of what never is at
    once the largest is counted, see `_at_once`. "before training": what is held before anything is shared out: every
    GPU builds the whole model, and the first of a machine encodes pictures beside it. `all` is the sum."""
    trained, average = FP32 * counts.trainable, bool(config.train.ema)
    whole: dict[str, float] = {
        "weights": FP32 * counts.total,
        "gradients": trained,
        "moments": FP32 * moments(counts.trainable, counts.hidden, config),
        "moving average": trained * average,
    }
    codec: dict[str, float] = {"VAE": FP32 * counts.codec}
    gathered = FP32 * (counts.outside + 2 * counts.largest_block) * (machine.gpus > 1)
    shares = {name: value / machine.gpus for name, value in whole.items()}
    held = {
        "before training": {"weights": FP32 * counts.total, **codec, "pictures being encoded": counts.encoding},
        "DDP": {**whole, **codec, **_largest(_at_once(counts, config, machine, ranks=1))},
        "FSDP": {
            **shares,
            "gathered weights": gathered,
            **codec,
            **_largest(_at_once(counts, config, machine, ranks=machine.gpus)),
        },
    }
    return {name: {**parts, "all": sum(parts.values())} for name, parts in held.items()}


def _at_once(counts: Counts, config: Config, machine: Machine, *, ranks: int) -> dict[str, float]:
    """Bytes of what a GPU holds for a while, each when the others are gone, where `ranks` share what is trained: a
    step's activations; under DDP all gradients once more, in a row to be exchanged, after the backward pass; Muon's
    step, which holds all momenta's look ahead, and of a few matrices the gathered, the stacked, the work in bfloat16
    and the result (AdamW's is fused and holds nothing); a look at the validation loss, which keeps a copy of the
    trained weights; a checkpoint."""
    trained = FP32 * counts.trainable / ranks
    found = {"activations": float(counts.activations), "a validation": counts.validation + trained}
    if machine.gpus > ranks:
        found["gradients in exchange"] = trained
    if config.train.optimizer == "muon":
        found["an optimizer step"] = 4 * counts.together + FP32 * counts.hidden / ranks
    if machine.host:
        found["a checkpoint being written"] = checkpoint_bytes(counts.trainable, counts.hidden, config)
    return found


def _largest(held: dict[str, float]) -> dict[str, float]:
    most = max(held, key=lambda name: held[name])
    return {most: held[most]}


def moments(trainable: int, hidden: int, config: Config) -> int:
    """How many numbers the optimizers keep: two a parameter, and one where Muon works."""
    return 2 * trainable - hidden * (config.train.optimizer == "muon")


def checkpoint_bytes(trainable: int, hidden: int, config: Config) -> int:
    """Of the trained weights, the moments and, where there is one, the average."""
    return FP32 * (trainable * (1 + bool(config.train.ema)) + moments(trainable, hidden, config))


# ------------------------------------------------------------------------------------------------------------ disk


def disk(
    trainable: int, hidden: int, latent_values: int, config: Config, *, language_model: int = 0
) -> dict[str, float]:
    """Bytes that a run leaves or needs for a while: in its folder the averaged weights and a checkpoint (weights,
    average, moments; the one before stays until the next is whole), in the cache pictures (3 bytes a pixel) and
    latents (float32) of all splits, and the language model's parameters, language_model, where they are unpacked from
    a GGUF file (float32). Samples and tokens of the text are small beside these, and not counted."""
    trained, sizes = FP32 * trainable, config.evaluate
    # of the fixed triples, of the drawn captions, real ones beside these, and captions looked through for unseen pairs
    wishes = [sizes.triples, max(sizes.pictures, sizes.captions), sizes.pictures]
    wishes += [UNSEEN_LOOKED * min(sizes.pairs, sizes.pictures)] * (UNSEEN in DATASETS[config.data.name].load().splits)
    held_out = [min(config.data.eval_items, wanted) for wanted in wishes]
    pictures = config.data.train_items + sum(held_out)
    return {
        "weights": trained,
        "checkpoint": 2 * checkpoint_bytes(trainable, hidden, config),
        "cached pictures": 3 * config.data.size**2 * pictures,
        "cached latents": FP32 * latent_values * pictures,
        **({"unpacked language model": FP32 * language_model} if language_model else {}),
    }


def _packed(config: Config) -> bool:
    from approaches.shared.sources import resolve

    try:
        return resolve(config.model.lm, field="model.lm").gguf is not None
    except UserError:  # of a model that is not at hand nobody knows
        return False


def _disk_of(counts: Counts, config: Config) -> dict[str, float]:
    packed = counts.borrowed.get("language_model", 0) if _packed(config) else 0
    return disk(counts.trainable, counts.hidden, counts.latent_values, config, language_model=packed)


# ------------------------------------------------------------------------------------------------------------ time


def step_flops(counts: Counts, config: Config) -> float:
    """The model's, of a step as it is worked: with accumulation, and an approach that can't tell the counts that its
    loss is divided by, all parts but a rank's last are worked through once more for them, without gradient."""
    parts = config.train.accumulation
    return counts.step + (parts - 1) / parts * (counts.forward or 0)


def times(counts: Counts, config: Config, machine: Machine, steps: int) -> dict[str, dict[str, float]]:
    """FLOPs, FLOP/s and seconds by stage: encoding all pictures once, training, the looks at the validation loss (each
    triple with its own caption and with another's), drawing the held-out prompts. Only training is shared by all GPUs,
    and only it computes in bfloat16: the first GPU of each machine encodes, every GPU takes the whole validation loss,
    and rank 0 alone draws. Decoding what is drawn, captions and perplexity are not counted."""
    validated = config.train.validations * min(config.evaluate.triples, config.data.eval_items)
    prompts = min(config.evaluate.pictures, config.data.eval_items)
    guided = 1 if config.diffusion.guidance == 1 else 2
    single = machine.peak_fp32 * machine.mfu
    drawing = float(prompts * guided * (config.diffusion.nfe * counts.denoise + counts.condition))
    work = {
        "encoding": (float(config.data.train_items * counts.encode), machine.peak_tf32 * machine.mfu),
        "training": (steps * step_flops(counts, config), machine.speed),
        "validating": (float(validated * 2 * (counts.denoise + counts.condition)), single),
        "drawing": (drawing, single),
    }
    return {name: {"flops": flops, "speed": speed, "seconds": flops / speed} for name, (flops, speed) in work.items()}


# ------------------------------------------------------------------------------------------------------- in words


def bytes_(value: float) -> str:
    """Bytes in a reader's unit.

    >>> bytes_(1.5e9), bytes_(2.5e6)
    ('1.50 GB', '2.50 MB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= 0.9995 * size:
            return f"{value / size:,.0f} {unit}" if value >= 99.95 * size else f"{value / size:.2f} {unit}"
    return f"{value / 1e3:.1f} kB"


def hours(seconds: float) -> str:
    """Seconds in a reader's unit.

    >>> hours(2), hours(90), hours(7200), hours(1e6)
    ('2.0 seconds', '1.5 minutes', '2.0 hours', '278 hours (11.6 days)')
    """
    if seconds < 60:
        return f"{seconds:.1f} seconds"
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 3600:.0f} hours ({seconds / 86_400:.1f} days)"


def lines(counts: Counts, config: Config, machine: Machine, steps: int) -> list[str]:
    """The plan of one approach, a line a step of the arithmetic."""
    worked, done = step_flops(counts, config), times(counts, config, machine, steps)
    draw, describe, windows = counts.rows
    borrowed = ", ".join(f"{name} {size:,}" for name, size in counts.borrowed.items())
    parts = config.train.accumulation
    told = [
        f"parameters    {counts.total:,} in all = {counts.total - counts.trainable:,} frozen + {counts.trainable:,} "
        f"trained{_by_muon(counts, config)}; {counts.active or 0:,} active in a drawing; borrowed: {borrowed}",
        f"a batch       {draw:,} pictures to draw, {describe:,} to describe, {windows:,} windows of "
        f"{config.train.replay_tokens} tokens to replay at hand; {counts.image_tokens} image tokens a picture, captions"
        f" of {counts.caption_tokens} ({counts.captions_of})",
        f"FLOPs a step  {counts.step:.4g}"
        + (
            f" + {parts - 1}/{parts} of its forward pass's {counts.forward:.4g} = {worked:.4g}"
            if counts.forward
            else ""
        ),
        f"FLOPs in all  ({worked:.4g} + {counts.update:.4g} of the optimizer) x {steps:,} steps = "
        f"{(worked + counts.update) * steps:.4g}",
        f"speed         {machine.gpus} x {machine.peak:.4g} FLOP/s ({machine.name}) x MFU {machine.mfu:.3g} "
        f"({machine.mfu_of}) = {machine.speed:.4g} FLOP/s",
    ]
    for stage, values in done.items():
        told.append(
            f"{stage:<14}{values['flops']:.4g} FLOPs / {values['speed']:.4g} FLOP/s ({_who(stage, machine)}) = "
            f"{hours(values['seconds'])}"
        )
    return told + _memory_lines(counts, config, machine) + _disk_lines(counts, config)


def _by_muon(counts: Counts, config: Config) -> str:
    if config.train.optimizer != "muon":
        return ""
    return f" ({counts.hidden:,} in matrices of blocks, by Muon; the rest by AdamW)"


def _who(stage: str, machine: Machine) -> str:
    """Which GPUs do a stage, and in what arithmetic that is not training's."""
    convolutions = "TF32" if machine.peak_tf32 > machine.peak_fp32 else "float32"
    told = {
        "encoding": f"one GPU of each machine, {convolutions}",
        "training": f"{machine.gpus} together; the model's alone, as MFU has it",
        "validating": "every GPU all of it, float32",
        "drawing": "one GPU alone, float32",
    }
    return told[stage]


def _memory_lines(counts: Counts, config: Config, machine: Machine) -> list[str]:
    held = memory(counts, config, machine)
    before = held.pop("before training")
    told = [f"memory        before training, whole on every GPU: {_terms(before)} = {bytes_(before['all'])}"]
    part = "{} + {} pictures, {} windows".format(*counts.part)
    for name, parts in held.items():
        if machine.gpus == 1 and name == "FSDP":
            continue
        where = f"{name} on {machine.gpus}" if machine.gpus > 1 else "one device"
        fits = "fits" if max(parts["all"], before["all"]) < machine.memory else "DOES NOT FIT"
        less = ", less than before training" * (parts["all"] < before["all"])
        told.append(
            f"memory        {where}: {_terms(parts)} = {bytes_(parts['all'])} each{less}; {fits} into "
            f"{bytes_(machine.memory)} ({part} at a time)"
        )
    return told


def _terms(parts: dict[str, float]) -> str:
    return " + ".join(f"{what} {bytes_(value)}" for what, value in parts.items() if value and what != "all")


def _disk_lines(counts: Counts, config: Config) -> list[str]:
    needed = _disk_of(counts, config)
    terms = " + ".join(f"{what} {bytes_(value)}" for what, value in needed.items())
    return [f"disk          {terms} = {bytes_(sum(needed.values()))}"]


def to_json(counts: Counts, config: Config, machine: Machine, steps: int) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "counts": vars(counts),
        "machine": {**vars(machine), "speed": machine.speed},
        "steps": steps,
        "flops_per_step": step_flops(counts, config) + counts.update,
        "times": times(counts, config, machine, steps),
        "memory": memory(counts, config, machine),
        "disk": _disk_of(counts, config),
    }
