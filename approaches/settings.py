"""The settings of every approach in this package, apart from the approaches, so that the command line can judge
`--approach NAME --settings.FIELD VALUE` before torch is imported. Leaves and the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from bench.errors import UserError
from bench.ranges import Count, Depth, Range, Rate, Share, Weight, Width

FROZEN_WORDS = "of a copy of the words, and settings.words frozen has none"
Rank = Annotated[int, Range(1, 65_536)]
Ratio = Annotated[float, Range(0, 100)]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every approach has. A subclass gives its own defaults, which are those of the preset `tiny`.

    OF_PRESETS: preset -> the fields in which it differs from the defaults.
    OF_OTHER_LMS: those that change beside a language model that is not of this package."""

    OF_PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    OF_OTHER_LMS: ClassVar[Mapping[str, Any]] = {}

    learning_rate: Rate = 1e-3
    """Peak learning rate of the new parameters."""
    caption_weight: Weight = 0.2
    """Weight of the captions' next-token loss (image to text)."""

    @classmethod
    def of_preset(cls, preset: str, *, other_lm: bool = False) -> Self:
        """The settings that a preset means for this approach, where the language model may not be of this package."""
        return cls(**{**cls.OF_PRESETS.get(preset, {}), **(cls.OF_OTHER_LMS if other_lm else {})})

    def check_asked(self) -> None:
        """UserError where one changes nothing beside the others: two runs would seem to differ in it. Of settings that
        are asked for; those of older runs may hold what was the default in their time."""


@dataclass(frozen=True, kw_only=True)
class FullRetrainingSettings(Settings):
    """Transfusion (arXiv 2408.11039): one transformer, all of it trained."""

    OF_PRESETS = {"small": {"learning_rate": 5e-4}, "base": {"learning_rate": 1e-4}}

    variant: Literal["transfusion", "lora"] = "transfusion"
    """transfusion trains every weight; lora freezes the language model but for low-rank updates."""
    start: Literal["language_model", "scratch"] = "language_model"
    """Where the transformer's weights start."""
    image_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """Whether a picture's tokens see all of the picture, or only what comes before them, as text does."""
    lm_learning_rate_ratio: Ratio = 1.0
    """Learning rate of the language model's own weights as a share of the new parameters'."""
    words_learning_rate_ratio: Ratio = 1.0
    """The same of its token embeddings, its output matrix as well: above 1, pictures hear their words a little earlier
    and text goes sooner."""
    replay_share: Share = 0.25
    """Windows of plain text a step, as a share of the batch's rows, to whole windows: where that is none
    nothing is replayed."""
    replay_weight: Weight = 0.2
    """Weight of the replayed text's next-token loss."""
    prompt_weight: Weight = 0.0
    """Weight of the next-token loss on the captions that pictures are drawn from."""
    lora_rank: Rank = 16

    def __post_init__(self) -> None:
        if self.variant == "lora" and self.start == "scratch":
            raise UserError(
                "settings.variant lora trains updates of a language model, which start scratch has not: expected start "
                "language_model, or variant transfusion"
            )

    def check_asked(self) -> None:
        """See Settings."""
        if self.variant == "lora" or self.start == "scratch":
            why = "variant lora trains none" if self.variant == "lora" else "start scratch has none"
            _check_unused(self, f"of weights of a language model, and settings.{why}", "lm_", "words_")


@dataclass(frozen=True, kw_only=True)
class DualTowerSettings(Settings):
    """X-Fusion (arXiv 2504.20996): a vision tower beside the frozen text tower, layer by layer."""

    OF_PRESETS = {"small": {"learning_rate": 5e-4}, "base": {"learning_rate": 1e-4, "words": "frozen"}}

    variant: Literal["dual_tower", "dual_projection", "gated", "crossing"] = "dual_tower"
    """The paper's block variants (its table 1), and one of ours, crossing: text sees images by the vision tower's keys
    and values."""
    learning_rate: Rate = 2e-3
    words: Literal["own", "frozen"] = "own"
    """What the vision tower makes keys and values of text from: a trained copy of the token embeddings beside the text
    tower's states, or, as in the paper, these states alone, through which pictures hardly hear their captions at first
    beside the shipped language model. dual_projection makes none: compare variants with `frozen`."""
    words_learning_rate_ratio: Ratio = 5.0
    """Learning rate of that copy as a share of the others'."""
    start: Literal["language_model", "scratch"] = "language_model"
    """Whether the vision tower starts as a copy of the text tower."""
    hidden: Annotated[int, Range(0, 65_536)] = 0
    """Hidden width of the vision tower's MLPs; 0 takes the text tower's. Another width starts from scratch there."""
    fuse: bool = False
    """X-Fuse: image tokens add a learned share of what the text tower makes of them."""
    alignment: Weight = 0.0
    """Weight of the alignment of the middle layer's image tokens to a frozen encoder's features; 0 for none."""

    def __post_init__(self) -> None:
        if self.fuse and self.variant != "dual_tower":
            raise UserError(f"settings.fuse mixes the outputs of variant dual_tower, not of {self.variant}")

    def check_asked(self) -> None:
        """See Settings."""
        if self.words == "frozen":
            _check_unused(self, FROZEN_WORDS, "words_")
        if self.variant == "dual_projection":
            _check_unused(self, "of a copy of the words, and settings.variant dual_projection has none", "words_")


@dataclass(frozen=True, kw_only=True)
class ProjectionSettings(Settings):
    """BLIP-2 (arXiv 2301.12597) one way, MetaQuery (arXiv 2504.06256) the other."""

    OF_PRESETS = {
        "small": {
            "learning_rate": 5e-4, "queries": 32, "width": 576, "layers": 16, "heads": 9, "encoder_layers": 4
        },
        "base": {
            "learning_rate": 1e-4, "words": "frozen", "queries": 64, "width": 1536, "layers": 24,
            "heads": 24, "encoder_layers": 6,
        },
    }  # fmt: skip

    readout: Literal["learned_queries", "random_queries", "last_hidden"] = "learned_queries"
    """What is read out of the language model: trained queries, queries left at random, or the prompt's own states."""
    words: Literal["own", "frozen"] = "own"
    """How a picture's prompt enters the language model: by a trained copy of its token embeddings, or by its own. By
    its own, as in the papers, pictures hardly hear their captions at first beside the shipped language model."""
    words_learning_rate_ratio: Ratio = 5.0
    """Learning rate of that copy as a share of the others'."""
    connector: Literal["qformer", "encoder", "mlp", "linear"] = "qformer"
    """From the language model's states to the denoiser's condition, and from visual features to soft prompts."""
    connector_depth: Depth = 2
    """Blocks of a qformer or an encoder, hidden layers of an mlp; a linear connector has none."""
    queries: Count = 16
    """Queries read out of the language model for a picture, and a qformer's own, which are the soft prompts for a
    caption. The others give as many vectors as they read: one soft prompt a patch."""
    width: Width = 192
    layers: Depth = 6
    heads: Depth = 6
    """Of the denoiser; connectors and encoder share its width and heads."""
    encoder_layers: Depth = 2
    """Of the encoder of clean latents, before the soft prompts."""

    def __post_init__(self) -> None:
        _check_width(self.width, self.heads)

    def check_asked(self) -> None:
        """See Settings."""
        if self.words == "frozen":
            _check_unused(self, FROZEN_WORDS, "words_")


@dataclass(frozen=True, kw_only=True)
class ModularSettings(Settings):
    """Chain of thought with visual modules, after LLM-grounded diffusion (arXiv 2305.13655)."""

    OF_PRESETS = {
        "small": {
            "learning_rate": 5e-4, "width": 576, "layers": 16, "heads": 9,
            "captioner_width": 384, "captioner_layers": 6, "checker_width": 192, "checker_layers": 4,
        },
        "base": {
            "learning_rate": 1e-4, "width": 1536, "layers": 24, "heads": 24,
            "captioner_width": 1024, "captioner_layers": 12, "checker_width": 512, "checker_layers": 8,
        },
    }  # fmt: skip
    OF_OTHER_LMS = {"plan_examples": 4}

    learning_rate: Rate = 2e-3
    planner: Literal["lm", "rules", "oracle", "empty"] = "lm"
    """Who writes the plan: the language model, a rule-based parser, the true scene, or nobody."""
    redraws: Annotated[int, Range(0, 100)] = 1
    """Rounds in which pictures that the checker turns down are drawn again."""
    threshold: Share = 0.5
    """Least probability at which the checker accepts a picture."""
    width: Width = 192
    layers: Depth = 6
    heads: Depth = 6
    """Of the layout-conditioned denoiser."""
    captioner_width: Width = 128
    captioner_layers: Depth = 3
    checker_width: Width = 96
    checker_layers: Depth = 3
    plan_tokens: Annotated[int, Range(1, 100_000)] = 72
    """Longest plan."""
    plan_examples: Annotated[int, Range(0, 4)] = 0
    """Captions with their plans that the language model reads first: none for the shipped one, which was trained on
    plans, 4 for any other."""
    layout_whole: Share = 0.5
    """Share of drawn rows trained with their whole layout; the others with what their captions say of it."""
    layout_false: Share = 0.25
    """Share of drawn rows whose layout is made false of their picture, before it is opened to what the caption says:
    with the other two at their defaults a sixth stay false."""
    layout_dropout: Share = 0.15
    """Share of drawn rows trained without their layout, so that the fallback to plain text works."""

    def __post_init__(self) -> None:
        _check_width(self.width, self.heads)


def _check_unused(settings: Settings, why: str, *ratios: str) -> None:
    """UserError where a learning rate ratio is not the default, though it changes nothing."""
    for name in (f"{each}learning_rate_ratio" for each in ratios):
        usual = getattr(type(settings), name)
        if getattr(settings, name) != usual:
            raise UserError(f"settings.{name} is a rate {why}: leave it at {usual:g}")


def _check_width(width: int, heads: int) -> None:
    if width % heads or width % 4:
        raise UserError(f"settings.width is {width}, expected a multiple of 4 and of settings.heads, {heads}")
