"""All families of base models, the first that owns a pipeline is taken: a new one is a class and a row."""

from importlib import import_module
from typing import Any

from torch import nn

from cpe.models.families.base import Family
from cpe.models.sites import find_projections

_TRANSFORMERS = ("pixart", "sana", "wan", "ltx", "latte", "allegro", "cosmos", "hunyuan")
FAMILIES = {
    "unet": "cpe.models.families.unet:UNET",
    **{name: f"cpe.models.families.transformer:{name.upper()}" for name in _TRANSFORMERS},
}
HOW_TO_ADD = "a new family is a class in cpe/models/families and a row of its table (docs/architecture.md)"


def family_of(pipe: Any) -> Family | None:
    """Returns the family of a pipeline or of its network; None for one of no known family, and for a U-Net alone."""
    for where in FAMILIES.values():
        module, _, attribute = where.partition(":")
        family: Family = getattr(import_module(module), attribute)
        if family.owns(pipe):
            return family
    return None


def network_in(pipe: Any) -> nn.Module | None:
    """Returns a pipeline's network, or the network itself, out of a compiler's wrapping; None if there is none."""
    family = family_of(pipe)
    network = pipe if family is None else family.network(pipe)
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    return network if isinstance(network, nn.Module) else None


def sites_of(pipe: Any) -> dict[str, nn.Linear]:
    """Returns where text enters a pipeline's network, or a network itself: projections by module path.

    Raises:
        ValueError: there is no network, or none of its attentions reads text as the methods need it.
    """
    network, family = network_in(pipe), family_of(pipe)
    if network is None:
        raise ValueError(no_family(pipe))
    return find_projections(network) if family is None else family.sites(network)


def no_family(pipe: Any) -> str:
    """Returns what to say of a pipeline of no known family."""
    networks = [f"{name} ({type(part).__name__})" for name, part in _networks(pipe)]
    return (
        f"{type(pipe).__name__} is of no known family: looked for a U-Net (unet) or a transformer of "
        f"{', '.join(name for name in FAMILIES if name != 'unet')} whose cross-attentions read text alone, found "
        f"{', '.join(networks) or 'no network'}; {HOW_TO_ADD}"
    )


def _networks(pipe: Any) -> list[tuple[str, nn.Module]]:
    parts = getattr(pipe, "components", None) or {}
    return [(name, part) for name, part in sorted(parts.items()) if isinstance(part, nn.Module)]
