"""Whether gates fit each other, a pipeline, and a text."""

# Axes: D text width.

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates
from cpe.models.sites import widths_of


def check_alike(parts: Sequence[LoadedGates]) -> None:
    """Refuses gates that cannot erase together.

    Raises:
        GateFileError: none at all, two of different text width, or over different projections.
    """
    if not parts:
        raise GateFileError("an eraser needs at least one gate")
    first = parts[0]
    for part in parts:
        if part.gates.text_width != first.gates.text_width:
            raise GateFileError(
                f"the gate of {part.concepts[0]!r} expects text width {part.gates.text_width}, that of "
                f"{first.concepts[0]!r} {first.gates.text_width}; gates of different base models cannot be merged"
            )
        widths = dict(zip(part.sites, part.gates.widths, strict=True))
        if widths != dict(zip(first.sites, first.gates.widths, strict=True)):
            odd = sorted(set(part.sites) ^ set(first.sites)) or ["widths differ"]
            raise GateFileError(
                f"the gate of {part.concepts[0]!r} has {len(part.sites)} projections, that of "
                f"{first.concepts[0]!r} {len(first.sites)} ({odd[0]}); they belong to different base models"
            )


def check_fits(loaded: LoadedGates, projections: Mapping[str, nn.Module]) -> None:
    """Refuses a pipeline's projections, by module path, that are not those of the gates.

    Raises:
        ValueError: they differ in text width, path or width.
    """
    found = {name: widths_of(module)[0] for name, module in projections.items()}
    expected = dict(zip(loaded.sites, loaded.gates.widths, strict=True))
    text_width = widths_of(next(iter(projections.values())))[1]
    if text_width != loaded.gates.text_width:
        raise ValueError(
            f"gates expect text width {loaded.gates.text_width}, the pipeline has {text_width}; "
            "were they trained for another base model?"
        )
    if found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))[0]
        raise ValueError(
            f"gates cover {len(expected)} projections, the pipeline has {len(found)}; they differ at "
            f"{odd[0]} (width {odd[1]}); were they trained for another base model?"
        )


def check_width(loaded: LoadedGates, text: Tensor) -> None:
    """Refuses text (..., D) of another width than the gates'.

    Raises:
        ValueError: the widths differ.
    """
    if text.shape[-1] != (width := loaded.gates.text_width):
        raise ValueError(
            f"gates expect text width {width}, got {text.shape[-1]}; were they trained for another text encoder?"
        )
