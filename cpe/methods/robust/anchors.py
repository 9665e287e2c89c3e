"""Tokens that a map holds still: of anchors, surrogate and empty prompt, of anchors in company, and between them."""

# Axes: S texts, T tokens, D text width.

import torch
from torch import Tensor

from cpe.methods.lessons import Encoded, Lesson
from cpe.methods.robust.config import RobustConfig


class Anchors:
    """Draws tokens that stay.

    Args:
        lesson: whose anchors and surrogate they are of.
        texts: the embeddings of its prompts.
        strays: anchors with words put in, (S, T, D).
        targets: tokens of the target's prompts, (n, D).
        config: of the training.
        generator: of everything drawn.
    """

    def __init__(
        self,
        lesson: Lesson,
        texts: Encoded,
        strays: Tensor,
        targets: Tensor,
        config: RobustConfig,
        generator: torch.Generator,
    ) -> None:
        still = {prompt.text: None for prompt in (*lesson.anchors, *lesson.surrogate)}
        self.rows = torch.tensor([texts.rows[text] for text in (*still, "")])
        self.table, self.strays, self.targets = texts.table, strays, targets
        self.config, self.generator = config, generator

    def tokens(self, count: int) -> Tensor:
        """Returns random tokens, (count, D)."""
        rows = self.rows[self._below(len(self.rows), count)]
        places = self._below(self.table.shape[1], count)
        tokens = self.table[rows, places].to(self.targets)
        strays = self._below(len(self.strays), round(self.config.stray_share * count))
        tokens[: len(strays)] = self.strays[strays, places[: len(strays)]].to(tokens)
        return tokens[torch.randperm(count, generator=self.generator)]

    def disturbed(self) -> Tensor:
        """Returns a step's tokens (n, D), some between two of them, some moved towards the target's, all with noise."""
        config, count = self.config, self.config.anchor_tokens
        tokens, others = self.tokens(count), self.tokens(count)
        mixed, share, toward, way = torch.rand(4, count, 1, generator=self.generator).to(tokens)
        tokens = torch.where(mixed < config.mixed, torch.lerp(tokens, others, share), tokens)
        targets = self.targets[self._below(len(self.targets), count)]
        tokens = torch.lerp(tokens, targets, config.toward * way * (toward < config.toward_share))
        noise = torch.randn(tokens.shape, generator=self.generator).to(tokens)
        return tokens + config.anchor_noise * tokens.norm(dim=1, keepdim=True) / tokens.shape[1] ** 0.5 * noise

    def _below(self, limit: int, count: int) -> Tensor:
        return torch.randint(limit, (count,), generator=self.generator)
