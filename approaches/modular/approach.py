"""Modular: chain of thought with visual modules. Four experts, joined by nothing but a line of text.

After LLM-grounded diffusion (arXiv 2305.13655), which plans, and SLD (arXiv 2311.16090), which checks and corrects.

    caption -> [ language model, under a grammar ] -> plan: large red circle 2 4; small blue square 6 1; dark
    caption, plan, noise -> [ denoiser ] -> latent -> [ checker ] <- plan
                                 ^-------- again ---------'  while turned down, `redraws` times at most
    picture -> [ captioner ] -> caption                      text -> [ language model ] -> text

Frozen: the language model, which plans, encodes captions and continues text; so text logits are its own, bit for bit.
Trained, each alone, from scratch: the drawing expert (the shared denoiser; it attends across to the language model's
hidden states of the caption and, as tokens of its own, to the plan's layout), the captioner (a picture's patches as a
soft prefix of a small decoder) and the checker (patches and layout; true pictures beside true and false plans). The
checker shares nothing with any metric. No gradient passes from one expert to another.

The drawing expert learns from true layouts, rounded as a written plan rounds them and with three coordinates of ten a
cell off: whole for `layout_whole` of rows, else only what the caption says of them; made false beforehand for
`layout_false` of rows, so that it minds the caption where the plan fails; without one where the scene is not known, for
`layout_dropout` of rows, and where the caption is left out.
`generate` draws from the whole plan, guesses and all, but for a background that the caption names otherwise, which is
set right (`corrected` in the trace): a small language model copies it from the caption no better than by chance.
`condition` keeps what the caption says: a given picture can't be judged under a plan's guesses of what its caption
leaves open. A prompt has an empty layout where its plan does not parse (a failure, which the trace tells), where it
names nothing that a plan could hold, or where no layout was ever learned from; it is drawn from its words alone, and
nothing can be checked.

Costs: a picture's plan (some 10 to 40 tokens of the language model, once a prompt), its drawing times one plus its
redraws, and a checker's pass each. All are in the Generation.

Shapes: B rows, L text tokens, E planned objects, D width, V vocabulary, C H W a latent, t in [0, 1].
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from approaches.base import Approach, Batch, Generation, Generators, Loss, NoiseFor, Prompt, Sampler, Shared
from approaches.modular.captioner import Captioner
from approaches.modular.checker import WAYS_TO_BE_FALSE, Checker, corrupted, drawn_ways
from approaches.modular.expert import HEADS
from approaches.modular.layout import Layouts, LayoutTokens, scene_plan
from approaches.modular.planner import Planned, Planner
from approaches.settings import ModularSettings
from approaches.shared.denoiser import Denoiser, Prepared
from approaches.shared.devices import sent
from approaches.shared.diffusion import Sampled
from approaches.shared.prefix import Prefix
from approaches.shared.prompts import last_logits, read_parts
from approaches.shared.randomness import generator
from approaches.shared.reading import next_logits, read
from approaches.shared.transformer import Transformer
from bench.errors import UserError

LAYOUT_WIDTH = 64
CHECKED_NOISE = 0.25  # the checker learns from latents of which up to so much is noise: small faults don't matter


@dataclass(frozen=True)
class Reading:
    """Which expert writes, and what it has read."""

    writer: Transformer
    prefix: Prefix


@dataclass(kw_only=True)
class Drawings:
    """Of each prompt the drawing that stands, B C H W, the checker's probability of it, B, and of its items, B E+2; the
    probabilities of all its drawings in turn, which of them stands, and the denoiser's evaluations for all."""

    latents: Tensor
    best: Tensor
    items: Tensor
    verdicts: list[list[float]]
    kept: list[int]
    nfe: list[int]

    def keep_better(self, rows: Tensor, turn: int, sampled: Sampled, probability: Tensor, items: Tensor) -> None:
        """The prompts at `rows` were drawn again: the new drawing stands where the checker likes it better."""
        better = probability > self.best[rows]
        index = rows[better]
        self.latents[index] = sampled.x_0[better]
        self.best[index], self.items[index] = probability[better], items[better]
        for row, value, wins in zip(rows.tolist(), probability.tolist(), better.tolist(), strict=True):
            self.nfe[row] += sampled.nfe
            self.verdicts[row].append(value)
            self.kept[row] = turn if wins else self.kept[row]


class Modular(Approach):
    """See the module's text."""

    settings: ModularSettings

    def __init__(self, shared: Shared, settings: ModularSettings) -> None:
        super().__init__(shared, settings)
        for name, width in (("captioner_width", settings.captioner_width), ("checker_width", settings.checker_width)):
            if width % (2 * HEADS):
                raise UserError(f"settings.{name} is {width}, expected a multiple of {2 * HEADS}")
        self.language_model.requires_grad_(False)
        config, patchify = self.language_model.transformer.config, shared.patchify
        self.planner = Planner(
            self.language_model, arm=settings.planner, tokens=settings.plan_tokens, examples=settings.plan_examples
        )
        with shared.fresh("modular"):
            self.layout = LayoutTokens(LAYOUT_WIDTH)
            self.denoiser = Denoiser(
                shared.patch_embedding(settings.width),
                settings.width,
                settings.layers,
                settings.heads,
                config.width,
                shared.kernels,
                layout_width=LAYOUT_WIDTH,
            )
            self.checker = Checker(
                patchify, width=settings.checker_width, layers=settings.checker_layers, kernels=shared.kernels
            )
        self.captioner = Captioner(
            patchify,
            width=settings.captioner_width,
            layers=settings.captioner_layers,
            vocabulary=config.vocabulary,
            kernels=shared.kernels,
            generator=generator(shared.seed, "weights/modular/captioner"),
        )

    def blocks(self) -> list[nn.Module]:
        """The frozen language model's, and those of all trained experts."""
        trained = [*self.denoiser.blocks(), *self.captioner.transformer.blocks, *self.checker.layers]
        return [*self.language_model.transformer.blocks, *trained]

    # ------------------------------------------------------------------------------------------------ training

    def losses(self, batch: Batch, generators: Generators) -> dict[str, Loss]:
        """Diffusion on drawn rows under layouts; next token on described rows; the checker on both."""
        layouts = self._learned_from(batch, generators("whole/layout"))
        error = self.diffusion_errors(batch, self._prepare(*batch.drawn_prompt(), layouts))
        tokens, mask = batch.describe.prompt
        nats = self.captioner.loss(batch.describe.latents, tokens, mask, batch.describe.targets)
        counts, checked = self.counts(batch), self._misread(batch, generators("whole/check"))
        return {
            "diffusion": Loss(error.sum(), counts["diffusion"]),
            "caption": Loss(nats, counts["caption"], self.settings.caption_weight),
            "check": Loss(checked, counts["check"]),
        }

    def counts(self, batch: Batch) -> dict[str, Tensor | float]:
        """See Approach."""
        described = batch.describe.predicted
        return {"diffusion": len(batch.times), "caption": described, "check": len(batch.draw) + len(batch.describe)}

    def _learned_from(self, batch: Batch, draw: torch.Generator) -> Layouts:
        """The drawn rows' layouts: some made false of their pictures, as a planner's are at times; then all but
        `layout_whole` of them opened to what their captions say; then some dropped. Drawn for the whole batch."""
        settings = self.settings
        true = Layouts.of([scene_plan(scene) for scene in batch.whole.draw.scenes])
        luck_whole, luck_dropped, luck_false = torch.rand(len(true), 3, generator=draw).unbind(1)
        ways = torch.randint(len(WAYS_TO_BE_FALSE), (len(true),), generator=draw)
        layouts = corrupted(true, torch.where(luck_false < settings.layout_false, ways, -1), draw)
        mine = torch.arange(len(true))[batch.rows(len(true))]
        captions = [self.shared.cut(text) for text in batch.draw.captions]
        layouts = layouts.select(mine).said(captions, luck_whole[mine] < settings.layout_whole)
        return layouts.without((luck_dropped[mine] < settings.layout_dropout) | batch.whole.empty[mine])

    def _misread(self, batch: Batch, draw: torch.Generator) -> Tensor:
        """The checker's cross entropy on lightly noised pictures beside true and false plans, summed over all rows; one
        whose scene is not known gives 0. Plans are made false among those of the whole batch."""
        whole = batch.whole
        latents = torch.cat([batch.draw.latents, batch.describe.latents])
        clean = torch.cat([whole.draw.latents, whole.describe.latents])
        true = Layouts.of([scene_plan(scene) for scene in (*whole.draw.scenes, *whole.describe.scenes)])
        planned = corrupted(true, drawn_ways(len(true), draw), draw)
        true = true.widened(planned.mask.shape[1])
        level = CHECKED_NOISE * torch.rand(len(true), generator=draw)[:, None, None, None]
        noise = self.shared.diffusion.noise_like(clean, draw)
        device, rows = latents.device, torch.arange(len(true))
        drawn, described = rows[: len(whole.draw)], rows[len(whole.draw) :]
        mine = torch.cat([each[batch.rows(len(each))] for each in (drawn, described)])
        level = sent(level[mine], device)
        noised = (1 - level) * latents.float() + level * sent(noise[mine], device).float()
        planned, true = (layouts.select(mine).to(device) for layouts in (planned, true))
        return self.checker.loss(noised, planned, true)

    def _prepare(self, tokens: Tensor, mask: Tensor, layouts: Layouts) -> Prepared:
        """What the drawing expert is told: captions, B L ids and mask, and layouts."""
        with torch.no_grad():
            hidden = self.language_model.transformer(tokens)
        planned, planned_mask = self.layout(layouts.to(tokens.device))
        return self.denoiser.prepare(hidden, mask, planned, planned_mask)

    # ------------------------------------------------------------------------------------------ text to image

    @property
    def oracle(self) -> bool:
        """See Approach."""
        return self.settings.planner == "oracle"

    def plan(self, prompts: Sequence[Prompt], *, anew: bool = False) -> list[Planned]:
        """A plan for each prompt, or why there is none. anew: see Planner.plan."""
        if not self.layout.trained:
            return [Planned(source=self.settings.planner, reason="no layout was learned from")] * len(prompts)
        return self.planner.plan(self._words(prompts), [prompt.scene for prompt in prompts], anew=anew)

    def _words(self, prompts: Sequence[Prompt]) -> list[str]:
        """As much of each prompt's words as the drawing expert reads."""
        return [self.shared.cut(prompt.words) for prompt in prompts]

    def condition(self, prompts: Sequence[Prompt]) -> Prepared:
        """Plans made, words and what they say of the layouts read; a picture in a prompt is not looked at."""
        layouts, _ = self._layouts(prompts, self.plan(prompts))
        return self._condition(prompts, layouts.said(self._words(prompts)))

    def _layouts(self, prompts: Sequence[Prompt], planned: Sequence[Planned]) -> tuple[Layouts, tuple[bool, ...]]:
        """Plans as layouts, and whose background was not the one that its caption names, and was set right."""
        return Layouts.of([one.plan for one in planned]).corrected(self._words(prompts))

    def _condition(self, prompts: Sequence[Prompt], layouts: Layouts) -> Prepared:
        device = self.layout.mark.device
        tokens, mask = self.shared.tokenise([prompt.words for prompt in prompts])
        return self._prepare(tokens.to(device), mask.to(device), layouts)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Prepared) -> Tensor:
        """The drawing expert."""
        prediction: Tensor = self.denoiser(x_t, t, condition)
        return prediction

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], noise_for: NoiseFor, sampler: Sampler) -> Generation:
        """Plan, draw, check; then draw the pictures that are turned down again, from other noise, and keep of each
        prompt the first that is accepted, else the one that the checker likes best.

        trace, for each prompt: `plan` as written, `parsed`, `source`, `corrected`, `reason` for an empty layout,
        `verdicts`, the probability of each drawing in turn, `rounds` of redrawing, `kept`, the drawing that stands, its
        `objects`' probabilities, and `accepted` (None where there was no plan to check against). `first` holds round 0,
        where there may be others."""
        clock = _Clock(self.layout.mark.device)
        planned = self.plan(prompts, anew=True)
        clock.stop("plan")
        layouts, corrected = self._layouts(prompts, planned)
        condition = self._condition(prompts, layouts)
        on_device = layouts.to(self.layout.mark.device)
        sampled = sampler(self, condition, noise_for(range(len(prompts)), 0))
        clock.stop("draw")
        first, best, items = sampled.x_0, *self.checker.probabilities(sampled.x_0, on_device)
        drawings = Drawings(
            latents=first.clone(),
            best=best,
            items=items,
            verdicts=[[value] for value in best.tolist()],
            kept=[0] * len(prompts),
            nfe=[sampled.nfe] * len(prompts),
        )
        clock.stop("check")
        for turn in range(1, self.settings.redraws + 1):
            rejected = torch.nonzero((drawings.best < self.settings.threshold) & on_device.known)[:, 0]
            if not len(rejected):
                break
            sampled = sampler(self, condition.select(rejected), noise_for(rejected.tolist(), turn))
            clock.stop("draw")
            drawings.keep_better(
                rejected, turn, sampled, *self.checker.probabilities(sampled.x_0, on_device.select(rejected))
            )
            clock.stop("check")
        told = zip(planned, corrected, drawings.verdicts, drawings.kept, drawings.items.tolist(), strict=True)
        return Generation(
            latents=drawings.latents,
            first=first if self.settings.redraws else None,
            nfe=tuple(drawings.nfe),
            tokens=sum(one.tokens for one in planned),
            seconds=clock.seconds,
            trace=tuple(self._told(*of_one) for of_one in told),
        )

    def _told(
        self, planned: Planned, corrected: bool, verdicts: list[float], kept: int, items: list[float]
    ) -> dict[str, Any]:
        """A prompt's trace."""
        told: dict[str, Any] = {"plan": planned.text, "parsed": planned.parsed, "source": planned.source}
        told["corrected"] = corrected
        if planned.plan is None:
            nothing = {"verdicts": [], "rounds": 0, "kept": 0, "objects": [], "accepted": None}
            return {**told, "reason": planned.reason, **nothing}
        return {
            **told,
            "reason": "",
            "verdicts": [round(value, 4) for value in verdicts],
            "rounds": len(verdicts) - 1,
            "kept": kept,
            "objects": [round(value, 4) for value in items[: len(planned.plan[0])]],
            "accepted": verdicts[kept] >= self.settings.threshold,
        }

    # ------------------------------------------------------------------------------- image to text, text to text

    def text_start(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Reading]:
        """Words alone go to the language model, anything with a picture to the captioner."""
        parts = read_parts(self.shared, prompts, text_last=True)
        pictured = any(modality == "image" for modality, _ in parts)
        writer = self.captioner.transformer if pictured else self.language_model.transformer
        prefix = Prefix.nothing(len(prompts), self.layout.mark.device)
        logits = torch.empty(0)
        for modality, content in parts:
            if modality == "image":
                prefix = self.captioner.look(content, prefix)
                continue
            hidden, prefix = read(writer, content[0], prefix, content[1])
            logits = last_logits(writer, hidden, content[1])
        return logits, Reading(writer, prefix)

    def text_step(self, tokens: Tensor, state: Reading) -> tuple[Tensor, Reading]:
        """See Approach."""
        logits, prefix = next_logits(state.writer, tokens, state.prefix)
        return logits, Reading(state.writer, prefix)

    def text_logits(self, tokens: Tensor) -> Tensor:
        """The language model's own."""
        transformer = self.language_model.transformer
        return transformer.logits(transformer(tokens))


class _Clock:
    """Shares of the time: each stop adds what has passed since the last to a name."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last = device, time.perf_counter()
        self.seconds = {"plan": 0.0, "draw": 0.0, "check": 0.0}

    def stop(self, name: str) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now
