"""All families of base models, the first that owns a pipeline is taken: a new one is a class and a row."""

from importlib import import_module
from typing import Any

from torch import nn

from cpe.models.families.base import Family
from cpe.models.sites import find_projections

FAMILIES = {"unet": "cpe.models.families.unet:UNET"}


def family_of(pipe: Any) -> Family | None:
    """Returns the family of a pipeline; None for one of no known family, and for what is no pipeline."""
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
        raise ValueError(f"{type(pipe).__name__} has no U-Net; CPE's gates belong to a U-Net's cross-attentions")
    return find_projections(network) if family is None else family.sites(network)
