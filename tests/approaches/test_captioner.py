"""The small captioner: a picture's patches see each other both ways before a word is written."""

from __future__ import annotations

import torch

from approaches.modular.captioner import Captioner
from approaches.shared.kernels import REFERENCE
from approaches.shared.patches import Patchify
from approaches.shared.prefix import ALL
from approaches.shared.randomness import generator


@torch.no_grad()
def test_every_patch_is_read_with_all_others_in_sight() -> None:
    sizes = {"width": 16, "layers": 2, "vocabulary": 30}
    model = Captioner(Patchify(4, 8, 2), **sizes, kernels=REFERENCE, generator=generator(0, "captioner"))
    latents = torch.randn(1, 4, 8, 8, generator=generator(0, "latents"))
    changed = latents.clone()
    changed[..., -1, -1] += 1  # in the last patch
    first, second = (model.look(picture).readers[ALL][1][0][:, :, :-1] for picture in (latents, changed))
    assert ((first - second).abs().amax((0, 1, 3)) > 0).all()  # the second layer's keys of all patches before it
