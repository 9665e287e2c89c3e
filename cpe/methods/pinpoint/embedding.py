"""One change of the text in place of all residuals: X* = X + M⁻¹ Σ_l c_l W_lᵀ Δ_l(X).

Residuals of all projections ask for changes of the text that differ a little. X* is the one that makes
Σ_l c_l ‖W_l (X* − X) − Δ_l(X)‖² least, errors weighed as training weighs them. As Δ_l is P_l U_l with codes P_l of rank
S, the change is Σ_l P_l (c_l U_l W_l M⁻¹): a gate needs L·S rows of width D for it, and no base model.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, L projections.

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpe.methods.pinpoint.gates import Gates
from cpe.methods.pinpoint.objective import up_products
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.methods.pinpoint.storage.fitting import check_fits
from cpe.models.attachment import network_of
from cpe.models.families.table import family_of, sites_of
from cpe.models.projections import BaseProjections


def changes_of(gates: Gates, base: BaseProjections) -> Tensor:
    """Returns what each code of gates adds to the text, c_l U_l W_l M⁻¹, (N, L·S, D), float64 on the CPU.

    Args:
        gates: over the model's projections, in their order.
        base: the model's projections, in the gates' dtype. Directions that they do not see stay unchanged.
    """
    pull = up_products(gates.up, base).pull.double().cpu()  # (N, L·S, D)
    cut = base.text_width * torch.finfo(base.gram.dtype).eps  # what is below in M is rounding
    return pull @ torch.linalg.pinv(base.gram.double().cpu(), hermitian=True, rtol=cut)


def reaches(pipe: Any) -> bool:
    """Whether a change of the prompt embeddings is one of what the attentions see: nothing lies between the two."""
    family = family_of(pipe)
    return family is None or not family.way(network_of(pipe))


def check_reaches(pipe: Any) -> None:
    """Refuses a model whose own layers lie between prompt embeddings and attentions.

    Raises:
        ValueError: it is one.
    """
    if not reaches(pipe):
        raise ValueError(
            f"{type(pipe).__name__} passes prompt embeddings through layers of its own before its attentions see them, "
            "so that no change of prompt_embeds does what gates do; attach the gates"
        )


@contextmanager
def encoded_by(pipe: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Changes what a pipeline's encoder gives for prompts and for negative prompts, (B, T, D); pooled texts stay.

    Raises:
        ValueError: a change of prompt embeddings is none of what the pipeline's attentions see, or it has no encoder.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise ValueError(f"{type(pipe).__name__} encodes no prompts; give the pipeline, not its network")
    check_reaches(pipe)
    own = pipe.encode_prompt

    def encode(*given: Any, **named: Any) -> tuple[Any, ...]:
        prompt, negative, *others = own(*given, **named)
        return change(prompt), None if negative is None else change(negative), *others

    pipe.encode_prompt = encode
    try:
        yield
    finally:
        del pipe.encode_prompt


class TextChanges:
    """What codes of gates add to the text, from a model or from the gates' files.

    Args:
        parts: gates by shape, all over the same projections in the same order.
    """

    def __init__(self, parts: Sequence[LoadedGates]) -> None:
        self._parts = parts
        self._known: tuple[weakref.ref[nn.Module], int, torch.dtype, list[Tensor]] | None = None

    def of(self, pipe: Any, text: Tensor, cache: Path | None) -> list[Tensor]:
        """Returns (N, L·S, D) of each part, for texts of that length and precision.

        A model's are computed once, and again for another one: its weights must not have changed in between.

        Raises:
            ValueError: as `Eraser.embeddings` has it.
        """
        if pipe is None:
            return [_own(part) for part in self._parts]
        check_reaches(pipe)
        network, tokens = network_of(pipe), text.shape[1]
        dtype = torch.float64 if text.dtype == torch.float64 else torch.float32
        if self._known is not None and (self._known[0](), *self._known[1:3]) == (network, tokens, dtype):
            return self._known[3]
        check_fits(self._parts[0], dict(sites_of(pipe)))
        base = _ordered(BaseProjections.of(network, tokens=tokens, dtype=dtype, cache=cache), self._parts[0].sites)
        changes = [changes_of(part.gates.map(lambda t: t.to("cpu", dtype)), base) for part in self._parts]
        self._known = weakref.ref(network), tokens, dtype, changes
        return changes


def _own(part: LoadedGates) -> Tensor:
    if part.change is None:
        raise ValueError(
            f"the file of {part.concepts[0]!r} does not say how the text changes in place of keys and values (it is a "
            "released one, or was trained for a network with layers of its own before its attentions, or by an earlier "
            "version); give the base model as `pipe`"
        )
    return part.change


def _ordered(base: BaseProjections, sites: Sequence[str]) -> BaseProjections:
    places = [base.names.index(site) for site in sites]
    return replace(
        base,
        names=tuple(sites),
        widths=tuple(base.widths[place] for place in places),
        weights=base.weights[places],
        matrices=tuple(base.matrices[place] for place in places),
    )
