"""The eraser: gates of any number of concepts, attached to a pipeline and taken off again.

At inference every token follows the concept whose gate is most open there, and only that concept's
residual is added (CPE, section 3.4). Residuals depend on the prompt alone, so each projection's output is
computed once a prompt and reused in every denoising step. Which gate is most open needs [Wq | v] alone
(and Wk where it is not tied); the down and up matrices are touched only for gates that won a token.
"""

# Axes: N concepts, C of them at a time, B prompts, T tokens, D text width, O projection width, S adapter rank,
# R gate rank, L projections.

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.scoring import reordered, scoring_matrix
from cpe.methods.pinpoint.sharing import SharedGates
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates, check_alike, check_fits, check_width, read_gates
from cpe.methods.pinpoint.storage.folders import gate_files
from cpe.methods.strength import Strengths, known
from cpe.models.attachment import Attachment, network_of
from cpe.models.edits import check_free
from cpe.models.families.table import sites_of
from cpe.models.padding import present
from cpe.models.reused.prompt_cache import forget
from cpe.models.sites import innermost

PAIRS_AT_ONCE = 128  # gates times prompts scored together; each takes T·T numbers


class Eraser(SharedGates):
    """Erases concepts from pipelines by adding gated residuals to cross-attention keys and values.

    Example:
        >>> from cpe import encode_prompts, fetch, load_pipeline
        >>> eraser = Eraser.load(fetch("models:/cpe-few@champion"))
        >>> pipe = load_pipeline("embedded", device="cpu")
        >>> eraser.openness(encode_prompts(pipe, ["a rose", "a castle"])).shape  # gates, prompts, tokens
        torch.Size([2, 2, 77])
        >>> with eraser.attached(pipe):
        ...     picture = pipe("a rose", num_inference_steps=2, guidance_scale=1.0).images[0]

    Args:
        parts: gates by shape, all over the same projections.

    Raises:
        GateFileError: no gates, two of different text width, or over different projections.
    """

    def __init__(self, parts: Sequence[LoadedGates]) -> None:
        check_alike(parts)
        first = parts[0]
        order = {site: place for place, site in enumerate(first.sites)}
        self._sites, self._widths = first.sites, first.gates.widths
        self._parts = [reordered(part, order) for part in parts]
        self._scoring: list[Tensor] = []
        self._attachment: Attachment | None = None
        self._strength = Strengths(self.concepts, lambda: forget(self))

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> "Eraser":
        """Reads gates from files, gate folders or bundle folders.

        Args:
            paths: one path or several; in a folder, every `.safetensors` file below it that holds a gate counts. A
                gate that is given twice is loaded once.

        Raises:
            FileNotFoundError: a path does not exist or holds no gate.
            GateFileError: a file is damaged, or gates do not fit each other.
        """
        return cls([read_gates(file) for file in gate_files(paths)])

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the erased concepts."""
        return tuple(concept for part in self._parts for concept in part.concepts)

    @property
    def strength(self) -> Strengths:
        """How strongly each concept is erased: `eraser.strength["owl"] = 0.5` halves its residual, from then on.

        From 0, which leaves the tokens that its gate wins as they are, to 2; 1 is as trained. May be set while
        attached; deep copies of the network share it, as they do the gates.
        """
        return self._strength

    def without(self, *concepts: str) -> "Eraser":
        """Returns an eraser of all other concepts, as if it had been loaded without these gates; attached nowhere.

        Raises:
            UnknownConceptError: a concept is not erased here; names those that are.
            GateFileError: none is left.
        """
        gone = {known(concept, self.strength) for concept in concepts}
        left = [part for part in (part.without(gone) for part in self._parts) if part.concepts]
        if not left:
            raise GateFileError("nothing is left to erase; detach the eraser instead")
        other = Eraser(left)
        for name in other.concepts:
            other.strength[name] = self.strength[name]
        return other

    def __repr__(self) -> str:
        attached = self._attachment is not None and self._attachment.active
        return f"<Eraser of {self.strength.told()}{', attached' if attached else ''}>"

    @property
    def sites(self) -> tuple[str, ...]:
        """Module paths of the projections that receive residuals."""
        return self._sites

    @torch.no_grad()
    def openness(self, text: Tensor) -> Tensor:
        """Returns how open each gate is at each token, (N, B, T) in 0..1, for text (B, T, D)."""
        return torch.cat([scores for scores, _ in self._scores(text)]).sigmoid()

    def residuals(self, text: Tensor) -> dict[str, Tensor]:
        """Returns what is added to each projection's output; gradients reach a text that asks for them.

        Args:
            text: prompt embeddings (B, T, D) or (T, D).

        Returns:
            (B, T, O) or (T, O) by module path, in the text's dtype, on its device.

        Raises:
            ValueError: the text's width is not the gates'.
        """
        if text.dim() == 2:
            return {name: value[0] for name, value in self.residuals(text[None]).items()}
        computed = text if text.dtype == torch.float64 else text.float()
        wanted = torch.is_grad_enabled() and text.requires_grad
        with torch.autocast(text.device.type, enabled=False), torch.set_grad_enabled(wanted):
            total = self._residuals(computed, text.dtype)
        return dict(zip(self._sites, total.split(list(self._widths), dim=-1), strict=True))

    @torch.no_grad()
    def residual_energy(self, pipe: Any, text: Tensor) -> Tensor:
        """Returns Σ_l ‖residual_l‖² / Σ_l ‖W_l x‖² of each prompt of text (B, T, D), (B,) float64."""
        network = network_of(pipe)
        added, own = (torch.zeros(len(text), dtype=torch.float64) for _ in range(2))
        for site, residual in self.residuals(text).items():
            projection = network.get_submodule(site)
            said = projection(text.to(next(projection.parameters())))  # (B, T, O)
            added += residual.double().square().sum(dim=(1, 2)).cpu()
            own += said.double().square().sum(dim=(1, 2)).cpu()
        return added / own

    def attach(self, pipe: Any) -> None:
        """Adds the residuals to a pipeline's U-Net (or to a U-Net itself) until `detach`.

        The U-Net's cross-attentions are all that changes. A ControlNet's own cross-attentions and SDXL's pooled
        embedding still get the prompt as it is: gates are trained for the U-Net's projections.
        LoRA layers, offload hooks and `torch.compile` may come before or after; under offload hooks and in compiled
        code keys and values are computed every step, residuals still once a prompt. While attached, fusing
        projections raises, and so does a call once a projection or the pipeline's network has been replaced.
        Copies and pickles of the network carry their own erasure. Weights written through `.data` between two calls
        with the very same text tensor, which pipelines never do, go unnoticed except on the CPU.

        Raises:
            ValueError: the pipeline's projections are not those the gates were trained for, or are fused.
            RuntimeError: this eraser is attached already, or another one is attached there.
        """
        if self._attachment is not None and self._attachment.active:
            raise RuntimeError("this eraser is attached already; detach it first")
        network = network_of(pipe)
        projections = {name: innermost(module) for name, module in sites_of(pipe).items()}
        check_fits(self._parts[0], projections)
        check_free(network, projections)
        self._scoring = self._scoring or [scoring_matrix(part.gates) for part in self._parts]
        self._attachment = Attachment(pipe, network, projections, self)

    def detach(self) -> None:
        """Takes the residuals off again; does nothing if they are not on. `cpe.detach(pipe)` needs no eraser."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of an eraser is attached nowhere, and has strengths of its own."""
        return {**vars(self), "_attachment": None, "_strength": dict(self._strength)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._strength = Strengths(self.concepts, lambda: forget(self), state["_strength"])

    def _residuals(self, text: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the winners' residuals of all projections side by side, (B, T, ΣO)."""
        prompts, tokens, _ = text.shape
        score = text.new_full((prompts, tokens), -torch.inf)
        winner = torch.zeros_like(score, dtype=torch.long)
        mixing = text.new_zeros(prompts, tokens, tokens)  # each token's row of its winner's attention A
        first = 0
        for scores, attention in self._scores(text):
            top, place = scores.max(dim=0)  # (B, T); scores still differ where openness rounds to 1
            score, newer = torch.stack([score, top]).max(dim=0)
            better = newer == 1
            rows = attention.gather(0, place[None, ..., None].expand(1, -1, -1, tokens))[0]  # (B, T, T)
            mixing = torch.where(better[..., None], rows, mixing)
            winner = torch.where(better, first + place, winner)
            first += len(scores)
        attended = mixing @ text  # (B, T, D): e = A X
        counts = torch.tensor(self._widths, device=text.device)
        site_of = torch.arange(len(counts), device=text.device).repeat_interleave(counts)  # (ΣO,)
        total = torch.empty(prompts, tokens, len(site_of), dtype=dtype, device=text.device)
        for number in winner.unique().tolist():
            config, down, up = self._adapter(number, text)
            won, strength = winner == number, self._strength[self.concepts[number]]
            opened = config.alpha / config.adapter_rank * score[won].sigmoid()  # (n,): α/S · g
            opened = opened if strength == 1 else opened * strength
            codes = (opened[:, None] * attended[won] @ down).unflatten(1, (len(counts), -1))  # (n, L, S)
            pieces = (codes[:, site_of, rank] * up[rank] for rank in range(config.adapter_rank))  # (n, ΣO) each
            total[won] = sum(pieces).to(dtype)
        return total

    def _adapter(self, number: int, text: Tensor) -> tuple[GateConfig, Tensor, Tensor]:
        """Returns a concept's config, down (D, L·S) and up (S, ΣO)."""
        for part in self._parts:
            if number < len(part.gates):
                down, up = part.gates.down[number], part.gates.up[number]
                return part.gates.config, down.to(text.device, text.dtype), up.to(text.device, text.dtype)
            number -= len(part.gates)
        raise IndexError(number)

    def _scores(self, text: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields scores (C, B, T) and attentions A (C, B, T, T) of some concepts at a time, in order."""
        check_width(self._parts[0], text)
        read, kind = present(text), (text.device, text.dtype)  # read: (B, T)
        padded = not bool(read.all())
        if not self._scoring or any((matrix.device, matrix.dtype) != kind for matrix in self._scoring):
            self._scoring = [scoring_matrix(part.gates).to(*kind) for part in self._parts]
        for part, matrix in zip(self._parts, self._scoring, strict=True):
            rank, tied = part.gates.config.gate_rank, part.gates.config.tied_qk
            for some in matrix.split(max(1, PAIRS_AT_ONCE // len(text))):
                mixed = nn.functional.linear(text, some.flatten(0, 1)).unflatten(2, some.shape[:2])
                mixed = mixed.permute(2, 0, 1, 3)  # (C, B, T, R + 1 [+ R])
                query = mixed[..., :rank]
                key = query if tied else mixed[..., rank + 1 :]
                logits = query @ key.transpose(-1, -2)  # (C, B, T, T)
                attention = (logits.masked_fill(~read[:, None], -torch.inf) if padded else logits).softmax(dim=-1)
                score = (attention @ mixed[..., rank : rank + 1])[..., 0]
                yield score.masked_fill(~read, -torch.inf) if padded else score, attention
