"""A prompt with free tokens: the text encoder reads learned embeddings where ordinary tokens would stand."""

# Axes: B prompts, K free tokens, E token width, T tokens, D text width, V vocabulary.

from typing import Any

import torch
from torch import Tensor, nn

from cpe.models.families.base import Family
from cpe.models.families.table import family_of

FILLER = "x"  # one token in every CLIP vocabulary; what it means is never read


def family_with_one_encoder(pipe: Any) -> Family:
    """Returns a pipeline's family.

    Raises:
        ValueError: it is of none, has several text encoders (a learned text is one embedding), or no U-Net.
    """
    family = family_of(pipe)
    if family is None or getattr(pipe, "text_encoder_2", None) is not None or not hasattr(pipe, "unet"):
        raise ValueError(
            f"attacks that learn need a model with one text encoder and a U-Net, got {type(pipe).__name__}; "
            "leave them out of evaluation.attacks"
        )
    return family


class Slots:
    """A prompt in which some tokens are free.

    Args:
        pipe: a pipeline with one text encoder.
        count: K, how many tokens are free.
        before: what stands before them.
        after: what stands after them.

    Raises:
        ValueError: the pipeline has several text encoders or none of a known family, or the prompt is too long.
    """

    def __init__(self, pipe: Any, count: int, *, before: str = "", after: str = "") -> None:
        self._pipe, self._family = pipe, family_with_one_encoder(pipe)
        self.prompt = " ".join(part for part in (before, *[FILLER] * count, after) if part)
        read = pipe.tokenizer(self.prompt).input_ids
        self.first = 1 + len(pipe.tokenizer(before, add_special_tokens=False).input_ids)
        filler = pipe.tokenizer(FILLER, add_special_tokens=False).input_ids
        if read[self.first : self.first + count] != filler * count or len(read) > pipe.tokenizer.model_max_length:
            raise ValueError(f"{self.prompt!r} leaves no room for {count} free tokens; ask for fewer")
        self.count = count

    @property
    def table(self) -> Tensor:
        """Embeddings of all tokens, (V, E)."""
        weight: Tensor = self._layer.weight.detach()
        return weight

    @property
    def _layer(self) -> nn.Embedding:
        layer: nn.Embedding = self._pipe.text_encoder.get_input_embeddings()
        return layer

    def texts(self, tokens: Tensor) -> Tensor:
        """Returns what the network sees of the prompt with these tokens, (1, T, D), for embeddings (K, E)."""

        def put(layer: nn.Module, given: Any, embedded: Tensor) -> Tensor:
            before, _, after = embedded.tensor_split([self.first, self.first + self.count], dim=1)
            return torch.cat([before, tokens.to(embedded)[None].expand(len(embedded), -1, -1), after], dim=1)

        handle = self._layer.register_forward_hook(put)
        try:
            return self._family.texts(self._pipe, [self.prompt])
        finally:
            handle.remove()

    def random_tokens(self, generator: torch.Generator, without: str) -> Tensor:
        """Returns embeddings (K, E) of random known tokens, none of them a token of the name `without`."""
        tokenizer = self._pipe.tokenizer
        barred = {*tokenizer.all_special_ids, *tokenizer(without).input_ids}
        chosen: list[int] = []
        while len(chosen) < self.count:
            token = int(torch.randint(len(self.table), (), generator=generator))
            chosen += [] if token in barred else [token]
        return self.table[chosen].clone()
