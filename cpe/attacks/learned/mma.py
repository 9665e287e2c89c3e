"""MMA-Diffusion's text attack (CVPR 2024): words, none the concept's, whose text is that of the plain prompt."""

# Axes: B prompts, T tokens, D text width.

import torch

from cpe.attacks.base import Aim, Found, Search, Victim, asked, check_budget

WORDS = 8  # the paper has 20


def search(victim: Victim, aim: Aim) -> Found:
    """Returns the words whose text points most nearly where the untouched text encoder's for the concept does."""
    from cpe.attacks.learned.coordinates import exchange
    from cpe.attacks.learned.words import Words
    from cpe.models.text import encode_prompts

    check_budget(aim.steps)
    wanted = encode_prompts(victim.pipe, asked([aim.concept]))  # (1, T, D)
    words = Words(victim.pipe, WORDS, aim.concept)

    def loss(texts: torch.Tensor) -> torch.Tensor:
        """Returns 1 − cosine of the last tokens, which tell of all that stands before them, (B,)."""
        texts = texts.float()
        return 1 - torch.cosine_similarity(texts[:, -1], wanted[:, -1].to(texts), dim=-1)

    came = exchange(words, loss, aim.steps, torch.Generator().manual_seed(aim.seed))
    return Found(words.texts(came.places[None])[0], came.losses, words.prompt(came.places))


MMA = Search("mma-text", "words whose text points where the plain prompt's does", "text encoder", 40, search)
