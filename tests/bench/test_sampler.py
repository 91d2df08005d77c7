"""The sampling loop: guidance away from the empty prompt, and what batches spent added up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from approaches.base import Approach, Generation, Prompt
from approaches.settings import Settings
from bench.errors import UserError
from bench.sampler import Sampling, draw, noise_source
from tests.approaches.small import small_shared


class Rows:
    """A condition of one number a row."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> Rows:
        """See Approach.condition."""
        return Rows(self.values[rows])

    @classmethod
    def cat(cls, parts: list[Rows]) -> Rows:
        """See Approach.condition."""
        return cls(torch.cat([part.values for part in parts]))


class Numbers(Approach):
    """Predicts the length of its prompt everywhere; says that each batch took a second and a token a prompt, and that
    the first picture of prompt "b" was another."""

    def losses(self, batch: Any, generators: Any) -> dict[str, Any]:
        """See Approach."""
        raise NotImplementedError

    def blocks(self) -> list[torch.nn.Module]:
        """See Approach."""
        return []

    def condition(self, prompts: Any) -> Rows:
        """See Approach."""
        return Rows(torch.tensor([1.0 + len(prompt.words) for prompt in prompts]))

    def denoise(self, x_t: Tensor, t: Tensor, condition: Rows) -> Tensor:
        """See Approach."""
        return condition.values[:, None, None, None] + torch.zeros_like(x_t)

    def generate(self, prompts: Any, noise_for: Any, sampler: Any) -> Generation:
        """See Approach."""
        latents = noise_for(range(len(prompts)), 0)
        again = any(prompt.words == "b" for prompt in prompts)
        return Generation(
            latents=latents, nfe=(2,) * len(prompts), tokens=len(prompts), first=latents + 1 if again else None,
            seconds={"plan": 1.0}, trace=tuple({"of": prompt.words} for prompt in prompts),
        )  # fmt: skip


@pytest.mark.parametrize(("guidance", "factors"), [(1.0, (4.0, 6.0)), (3.0, (10.0, 16.0)), (0.0, (1.0, 1.0))])
def test_guidance_leads_away_from_the_empty_prompt(guidance: float, factors: tuple[float, float]) -> None:
    """One Euler step of a flow is noise less the prediction; the prompts' are 4 and 6, the empty one's 1."""
    approach = Numbers(small_shared(), Settings())
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(nfe=1, guidance=guidance)
    sampled = sampling(approach, approach.condition([Prompt.text("abc"), Prompt.text("abcde")]), noise)
    torch.testing.assert_close(sampled.x_0, noise - torch.tensor(factors)[:, None, None, None])
    with pytest.raises(UserError, match="condition gives 1 rows for 2 prompts"):
        sampling(approach, approach.condition([Prompt.text("abc")]), noise)


def test_what_batches_made_and_spent_is_joined() -> None:
    approach = Numbers(small_shared(), Settings())
    prompts = [Prompt.text(words) for words in ("a", "c", "b")]
    sampling = Sampling(nfe=2, guidance=1.0)
    drawn = draw(approach, prompts, sampling, seed=0, batch=2)
    assert drawn.nfe == [2, 2, 2] and drawn.tokens == 3 and drawn.parts == {"plan": 2.0}
    assert [entry["of"] for entry in drawn.trace] == ["a", "c", "b"] and [n for _, n in drawn.seconds] == [2, 1]
    assert drawn.first is not None  # those of a batch without any redraw are its pictures
    assert torch.equal(drawn.first[:2], drawn.latents[:2]) and torch.equal(drawn.first[2], drawn.latents[2] + 1)
    assert draw(approach, prompts[:2], sampling, seed=0, batch=2).first is None
    alone = draw(approach, prompts[1:2], sampling, seed=0, batch=1, first=1)
    assert torch.equal(alone.latents[0], drawn.latents[1])  # its own noise, whoever is drawn with it


def test_every_round_of_a_prompt_has_noise_of_its_own() -> None:
    first, later = (noise_source((2, 3), 0, start, torch.device("cpu")) for start in (0, 4))
    assert torch.equal(first([5], 1), later([1], 1)) and not torch.equal(first([5], 0), first([5], 1))
