"""What a page is about: a list, a registered model or all of a base model's, by what its command was given."""

from dataclasses import dataclass
from pathlib import Path

from artifacts.registry.versions import CHAMPION, MODEL_PREFIX, parse_reference
from cpe.lists.reading import load_list
from tasks.here.places import Places
from tasks.page.bench import Bench
from tasks.page.shelf import Shelf, reference_of
from tasks.prepare import find_list

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Opened:
    """A page's bench, and what it shows first.

    Attributes:
        bench: to draw on.
        first: the version that is chosen when the page opens; None where none is registered.
        about: the registered model that the page is about; None for any.
    """

    bench: Bench
    first: str | None
    about: str | None


def open_bench(places: Places, named: str | None, base_model: str | None = None, profile: str | None = None) -> Opened:
    """Loads the base model for a list's versions, for one registered model's, or for all there are.

    Args:
        places: where lists, registry and store are.
        named: a list's name or path, a registered model such as cpe-emoji@champion, or None for all models.
        base_model: to erase from, in place of the one that the versions were made for.
        profile: how pictures are made; None takes the list's or the version's.

    Raises:
        ConceptListError: there is no such list.
        RegistryError: there is no such model.
        ValueError: there is no such profile or base model.
    """
    model, first, own_base, own_profile = None, None, None, None
    files: dict[str, Path] = {}
    if named and named.startswith((MODEL_PREFIX, "models:/")):
        model = parse_reference(named)[0]
        version = places.registry().resolve(named)
        first, own_base, own_profile = (
            reference_of(version),
            version.tags.get("base_model"),
            version.tags.get("profile"),
        )
    elif named:
        path = find_list(places, named)
        concepts = load_list(path)
        model, own_base, own_profile = concepts.model_name, concepts.base_model, concepts.profile
        files[model] = path
    chosen = base_model or own_base or EMBEDDED
    shelf = Shelf(places, base_model=None if base_model and model else chosen, model=model, files=files)
    versions = shelf.versions()
    if first is None and versions:
        champions = [each for each in versions if CHAMPION in each.aliases]
        first = reference_of((champions or versions)[0])
        own_profile = own_profile or (champions or versions)[0].tags.get("profile")
    fitting = own_profile if own_profile and base_model in (None, own_base) else None
    default = EMBEDDED if chosen == EMBEDDED else "cpe"
    return Opened(Bench(places, chosen, shelf, profile or fitting or default), first, model)
