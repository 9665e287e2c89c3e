"""The eraser: gates of any number of concepts, attached to a pipeline and taken off again.

At inference every token follows the concept whose gate is most open there, and only that concept's
residual is added (CPE, section 3.4). Residuals depend on the prompt alone, so each projection's output is
computed once a prompt and reused in every denoising step. Which gate is most open needs [Wq | v] alone
(and Wk where it is not tied); the down and up matrices are touched only for gates that won a token.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, L projections; n tokens won.

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpe.methods.pinpoint.embedding import TextChanges, encoded_by, reaches
from cpe.methods.pinpoint.scoring import Winners, reordered
from cpe.methods.pinpoint.sharing import SharedGates
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates, read_gates
from cpe.methods.pinpoint.storage.fitting import check_alike, check_fits
from cpe.methods.pinpoint.storage.folders import gate_files
from cpe.methods.strength import Strengths, known
from cpe.models.attachment import Attachment, network_of
from cpe.models.edits import check_free
from cpe.models.families.table import sites_of
from cpe.models.reused.prompt_cache import forget
from cpe.models.sites import innermost


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
        self._winners, self._changes = Winners(self._parts), TextChanges(self._parts)
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
        return torch.cat([scores for scores, _ in self._winners.scores(text)]).sigmoid()

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
    def embeddings(self, text: Tensor, pipe: Any = None, *, cache: Path | None = None) -> Tensor:
        """Returns prompt embeddings that erase by themselves: X* = X + M⁻¹ Σ_l c_l W_lᵀ Δ_l(X), in the text's shape.

        Given as `prompt_embeds` to the base model with nothing attached, or with its projections fused, or elsewhere
        where it runs. Of all changes of the text this one brings keys and values nearest to those with residuals, as
        training weighs them (docs/method.md). Where guidance is on, give `negative_prompt_embeds` likewise.

        Args:
            text: prompt embeddings (B, T, D) or (T, D), as the pipeline's own encoder gives them.
            pipe: the base model, or its network, whose M, c_l and W_l are taken; None takes what the gates' files say.
            cache: folder that keeps spectral norms and M, as for `BaseProjections.of`.

        Raises:
            ValueError: the network's own layers lie between prompt embeddings and attentions, the gates are not of this
                model, or no model is given and a gate's file has nothing that stands for it.
        """
        if text.dim() == 2:
            return self.embeddings(text[None], pipe, cache=cache)[0]
        changes = self._changes.of(pipe, text, cache)
        changed = text.clone() if text.dtype == torch.float64 else text.float().clone()
        for number, won, codes in self._winners.codes(changed.clone(), self._strength):
            part, place = self._winners.place(number)
            changed[won] += codes @ changes[part][place].to(codes)
        return changed.to(text.dtype)

    @contextmanager
    def encoding(self, pipe: Any, *, cache: Path | None = None) -> Iterator[Any]:
        """Has a pipeline's own encoder give `embeddings` of prompts and negative prompts within a `with` block.

        Nothing is attached to the network. What gates' files say is taken, where all of them say it; else the model's.

        Args:
            pipe: the pipeline, not its network alone.
            cache: as for `embeddings`.

        Raises:
            ValueError: as `embeddings` has it.
        """
        source = None if reaches(pipe) and all(part.change is not None for part in self._parts) else pipe
        with encoded_by(pipe, lambda text: self.embeddings(text, source, cache=cache)):
            yield pipe

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
        self._winners.prepare()
        self._attachment = Attachment(pipe, network, projections, self)

    def detach(self) -> None:
        """Takes the residuals off again; does nothing if they are not on. `cpe.detach(pipe)` needs no eraser."""
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of an eraser is attached nowhere, and has strengths of its own."""
        changes = TextChanges(self._parts)
        return {**vars(self), "_attachment": None, "_strength": dict(self._strength), "_changes": changes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._strength = Strengths(self.concepts, lambda: forget(self), state["_strength"])

    def _residuals(self, text: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns the winners' residuals of all projections side by side, (B, T, ΣO)."""
        counts = torch.tensor(self._widths, device=text.device)
        site_of = torch.arange(len(counts), device=text.device).repeat_interleave(counts)  # (ΣO,)
        total = torch.empty(*text.shape[:2], len(site_of), dtype=dtype, device=text.device)
        for number, won, codes in self._winners.codes(text, self._strength):
            up = self._winners.adapter(number, text)[2]  # (S, ΣO)
            by_site = codes.unflatten(1, (len(counts), -1))  # (n, L, S)
            total[won] = sum(by_site[:, site_of, rank] * up[rank] for rank in range(len(up))).to(dtype)
        return total
