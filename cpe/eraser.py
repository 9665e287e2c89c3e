"""The eraser: gates of any number of concepts, attached to a pipeline and taken off again.

At inference every token follows the concept whose gate is most open there, and only that concept's
residual is added (CPE, section 3.4). Residuals depend on the prompt alone, so each projection's output is
computed once a prompt and reused in every denoising step.
"""

# Axes: N concepts, B prompts, T tokens, D text width, O projection width, S adapter rank, L projections.

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpe.gatefile import FILE_NAME, GateFileError, LoadedGates, read_gates
from cpe.gates import Gates, gate_codes
from cpe.projections import find_projections

GATES_AT_ONCE = 32
PROMPTS_KEPT = 4


class Eraser:
    """Erases concepts from pipelines by adding gated residuals to cross-attention keys and values.

    Args:
        parts: gates by shape, all over the same projections.

    Raises:
        GateFileError: no gates, two of different text width, or over different projections.
    """

    def __init__(self, parts: Sequence[LoadedGates]) -> None:
        if not parts:
            raise GateFileError("an eraser needs at least one gate")
        first = parts[0]
        order = {site: place for place, site in enumerate(first.sites)}
        for part in parts:
            if part.gates.text_width != first.gates.text_width:
                raise GateFileError(
                    f"the gate of {part.concepts[0]!r} expects text width {part.gates.text_width}, that of "
                    f"{first.concepts[0]!r} {first.gates.text_width}; gates of different base models cannot be merged"
                )
            widths = dict(zip(part.sites, part.gates.widths, strict=True))
            if widths != dict(zip(first.sites, first.gates.widths, strict=True)):
                odd = sorted(set(part.sites) ^ set(order)) or ["widths differ"]
                raise GateFileError(
                    f"the gate of {part.concepts[0]!r} has {len(part.sites)} projections, that of "
                    f"{first.concepts[0]!r} {len(first.sites)} ({odd[0]}); they belong to different base models"
                )
        self._sites, self._widths = first.sites, first.gates.widths
        self._parts = [_reordered(part, order) for part in parts]
        self._attached: list[tuple[nn.Module, Any]] = []

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> "Eraser":
        """Reads gates from files, gate folders or bundle folders.

        Args:
            paths: one path or several; in a folder, every `gate.safetensors` below it counts.

        Raises:
            FileNotFoundError: a path does not exist or holds no gate.
            GateFileError: a file is damaged, or gates do not fit each other.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        files: list[Path] = []
        for path in map(Path, given):
            found = sorted(path.rglob(FILE_NAME)) if path.is_dir() else [path]
            if not found:
                raise FileNotFoundError(f"{path} holds no {FILE_NAME}; give a gate file, a gate folder or a bundle")
            files.extend(found)
        return cls([read_gates(file) for file in files])

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the erased concepts."""
        return tuple(concept for part in self._parts for concept in part.concepts)

    @property
    def sites(self) -> tuple[str, ...]:
        """Module paths of the projections that receive residuals."""
        return self._sites

    @torch.no_grad()
    def openness(self, text: Tensor) -> Tensor:
        """Returns how open each gate is at each token, (N, B, T) in 0..1, for text (B, T, D)."""
        return self._scores(text).sigmoid()

    @torch.no_grad()
    def residuals(self, text: Tensor) -> dict[str, Tensor]:
        """Returns what is added to each projection's output.

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
        winner = self._scores(computed).argmax(dim=0)  # (B, T); scores still differ where openness rounds to 1
        total = computed.new_zeros(*text.shape[:2], sum(self._widths))
        first = 0
        for part in self._parts:
            rank, bounds = part.gates.config.adapter_rank, list(self._widths)
            for concept in range(len(part.gates)):
                won = winner == first + concept  # (B, T)
                prompts = won.any(dim=1)
                if prompts.any():
                    gate = _like(part.gates[concept : concept + 1], computed)
                    codes = gate_codes(gate, computed[None, prompts])[1][0]  # (b, T, L·S)
                    pieces = [
                        code @ up
                        for code, up in zip(codes.split(rank, dim=-1), gate.up[0].split(bounds, dim=1), strict=True)
                    ]
                    total[won] = torch.cat(pieces, dim=-1)[won[prompts]]
            first += len(part.gates)
        parts = total.to(text.dtype).split(list(self._widths), dim=-1)
        return dict(zip(self._sites, parts, strict=True))

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Any]:
        """Erases within a `with` block; afterwards the pipeline is what it was, also after an exception."""
        self.attach(pipe)
        try:
            yield pipe
        finally:
            self.detach()

    def attach(self, pipe: Any) -> None:
        """Adds the residuals to a pipeline's U-Net (or to a U-Net itself) until `detach`.

        Raises:
            ValueError: the pipeline's projections are not those the gates were trained for, or are fused.
            RuntimeError: this eraser is attached already, or another one is attached there.
        """
        if self._attached:
            raise RuntimeError("this eraser is attached already; detach it first")
        projections = find_projections(getattr(pipe, "unet", pipe))
        self._check_fits(projections)
        cache = _PromptCache(self)
        for name, module in projections.items():
            self._attached.append((module, module.__dict__.get("forward")))
            module.forward = cache.forward_of(name, module.forward)  # type: ignore[method-assign, assignment]

    def detach(self) -> None:
        """Takes the residuals off again; does nothing if they are not on."""
        for module, before in self._attached:
            if before is None:
                del module.forward
            else:
                module.forward = before
        self._attached = []

    def _scores(self, text: Tensor) -> Tensor:
        """Returns each gate's score at each token, (N, B, T)."""
        self._check_width(text)
        scores = []
        for part in self._parts:
            for start in range(0, len(part.gates), GATES_AT_ONCE):
                gates = _like(part.gates[start : start + GATES_AT_ONCE], text)
                scores.append(gate_codes(gates, text[None])[0][..., 0])
        return torch.cat(scores)

    def _check_width(self, text: Tensor) -> None:
        width = self._parts[0].gates.text_width
        if text.shape[-1] != width:
            raise ValueError(
                f"gates expect text width {width}, got {text.shape[-1]}; were they trained for another text encoder?"
            )

    def _check_fits(self, projections: dict[str, nn.Linear]) -> None:
        found = {name: module.weight.shape[0] for name, module in projections.items()}
        expected = dict(zip(self._sites, self._widths, strict=True))
        text_width = next(iter(projections.values())).weight.shape[1]
        if text_width != self._parts[0].gates.text_width:
            raise ValueError(
                f"gates expect text width {self._parts[0].gates.text_width}, the pipeline has {text_width}; "
                "were they trained for another base model?"
            )
        if found != expected:
            odd = sorted(set(found.items()) ^ set(expected.items()))[0]
            raise ValueError(
                f"gates cover {len(expected)} projections, the pipeline has {len(found)}; they differ at "
                f"{odd[0]} (width {odd[1]}); were they trained for another base model?"
            )
        for name, module in projections.items():
            if getattr(module.__dict__.get("forward"), "cpe_attached", False):
                raise RuntimeError(
                    f"another eraser is attached at {name}; detach it, or load all gates into one eraser"
                )


@dataclass
class _Entry:
    """One prompt's embedding, its residuals, and the projections' outputs as they are asked for."""

    seen: Tensor
    version: int | None
    copy: Tensor
    residuals: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def is_for(self, text: Tensor) -> bool:
        """Whether the entry belongs to this text; only tensors not seen before are compared by value."""
        if self.seen is text and self.version is not None and self.version == _version(text):
            return True
        same_kind = (text.shape, text.dtype, text.device) == (self.copy.shape, self.copy.dtype, self.copy.device)
        return same_kind and torch.equal(text, self.copy)


class _PromptCache:
    """Projection outputs of the last prompts, found by the embedding itself."""

    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser
        self._entries: list[_Entry] = []

    def forward_of(self, name: str, base_forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Returns the projection's forward with residuals added, computed once a prompt."""

        def forward(text: Tensor) -> Tensor:
            entry = self._entry(text)
            if torch.is_grad_enabled():  # the output may carry a graph, which belongs to one step alone
                return base_forward(text) + entry.residuals[name]
            if name not in entry.outputs:
                entry.outputs[name] = base_forward(text) + entry.residuals[name]
            return entry.outputs[name]

        forward.cpe_attached = True  # type: ignore[attr-defined]
        return forward

    def _entry(self, text: Tensor) -> _Entry:
        for entry in self._entries:
            if entry.is_for(text):
                return entry
        entry = _Entry(text, _version(text), text.detach().clone(), self._eraser.residuals(text), {})
        self._entries = [entry, *self._entries][:PROMPTS_KEPT]
        return entry


def _version(tensor: Tensor) -> int | None:
    """Returns the count of in-place changes, or None for inference tensors, which keep none."""
    return None if tensor.is_inference() else tensor._version


def _like(gates: Gates, text: Tensor) -> Gates:
    return gates.map(lambda tensor: tensor.to(text.device, text.dtype))


def _reordered(part: LoadedGates, order: dict[str, int]) -> LoadedGates:
    """Returns gates with their projections in the given order."""
    places = sorted(range(len(part.sites)), key=lambda place: order[part.sites[place]])
    rank, gates = part.gates.config.adapter_rank, part.gates
    downs, ups = gates.down.split(rank, dim=2), gates.up.split(list(gates.widths), dim=2)
    changed = Gates(
        gates.config,
        tuple(gates.widths[place] for place in places),
        gates.query,
        gates.key,
        gates.score,
        torch.cat([downs[place] for place in places], dim=2),
        torch.cat([ups[place] for place in places], dim=2),
    )
    return LoadedGates(part.concepts, tuple(part.sites[place] for place in places), changed)
