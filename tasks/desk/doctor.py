"""What a user has and what each list would still need; seconds, no weights are loaded."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifacts.registry.registry import RegistryError
from artifacts.stores.store import StoreError
from cpe.evaluation.brought import file_asked_for
from cpe.evaluation.sets import check_pictures, evaluation_sets
from cpe.lists.reading import ConceptListError, load_only_list
from cpe.lists.schema import ConceptList
from cpe.models.loading import EMBEDDED, ModelError, model_folder
from cpe.terms.domains import NUDITY, PEOPLE, domain_of
from cpe.terms.profiles import PROFILES
from tasks.desk.versions import unnamed_bundles
from tasks.here.places import Places

INCEPTION_FILES = ("*.pth", "*.safetensors")


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: of the thing.
        found: what there is, or what to do about it.
        there: whether it can be used.
    """

    name: str
    found: str
    there: bool


def examine(places: Places) -> list[Check]:
    """Returns what this machine has: device, detectors, stores and servers."""
    return [_device(places), _inception(places), _people(places), _nudity(), _store(places), *_servers(places)]


def examine_lists(places: Places) -> list[Check]:
    """Returns for each list in `lists/` what it still needs."""
    return [examine_list(places, path) for path in sorted(places.lists().glob("*.yaml"))]


def examine_list(places: Places, path: Path) -> Check:
    """Returns what one list still needs."""
    try:
        needs = list(_needs(places, load_only_list(path)))
    except (ConceptListError, ValueError) as error:
        return Check(path.stem, str(error).splitlines()[0], False)
    cannot = [text for text, must in needs if must]
    holes = [text for text, must in needs if not must]
    text = "; ".join(cannot + holes) if needs else "nothing: everything is here"
    return Check(path.stem, ("" if cannot or not holes else "runs with holes: ") + text, not cannot)


def _needs(places: Places, concept_list: ConceptList) -> Iterator[tuple[str, bool]]:
    """Yields what a list lacks, and whether it cannot run without."""
    profile = PROFILES[concept_list.profile]
    if not _is_cached(concept_list.base_model, "model_index.json"):
        yield f"base model {concept_list.base_model}, which the first run fetches if the hub can be reached", True
    if profile.clip_model != EMBEDDED and not _is_cached(profile.clip_model, "config.json"):
        yield f"CLIP model {profile.clip_model}, likewise", False
    sets, notes = evaluation_sets(concept_list, folders=(places.lists(),), data=places.data)
    check_pictures(concept_list, sets)
    needed = {domain_of(each.domain).observer for each in sets}
    wanted = [
        (_inception(places), profile.features == "inception"),
        (_people(places), PEOPLE in needed and profile.features != EMBEDDED),
    ]
    for check, asked in [*wanted, (_nudity(), NUDITY in needed)]:
        if asked and not check.there:
            yield check.name, False
    for note in notes:
        yield file_asked_for(note), False


def _is_cached(model: str, file: str) -> bool:
    """Whether a model can be loaded without the network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        where = model_folder(model)
    except ModelError:
        return False
    if Path(where).is_dir():
        return (Path(where) / file).is_file()
    return isinstance(try_to_load_from_cache(where, file), str)


def _device(places: Places) -> Check:
    import torch

    if places.device_name().startswith("cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(places.device_name())
        return Check("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", True)
    return Check(
        "device", f"CPU, {os.cpu_count()} cores, {places.threads} thread(s) used (no GPU: large models are slow)", True
    )


def _inception(places: Places) -> Check:
    folder = places.data / "inception"
    found = [path.name for pattern in INCEPTION_FILES for path in sorted(folder.glob(pattern))]
    missing = f"FID and KID are left out: put pt_inception-2015-12-05-6726825d.pth of pytorch-fid into {folder}"
    return Check("Inception weights", found[0] if found else missing, bool(found))


def _people(places: Places) -> Check:
    if places.identity_command:
        return Check("celebrity detector", places.identity_command, True)
    people = [path for path in (places.data / "faces").glob("*") if path.is_dir()]
    if people and importlib.util.find_spec("dlib") is not None:
        return Check("celebrity detector", f"reference pictures of {len(people)} people", True)
    return Check(
        "celebrity detector",
        "accuracy on celebrities is left out: set CPE_IDENTITY_COMMAND, or put reference pictures into "
        f"{places.data / 'faces'} and install the extra [faces] (docs/celebrity-detector.md)",
        False,
    )


def _nudity() -> Check:
    there = importlib.util.find_spec("nudenet") is not None
    return Check("NudeNet", "installed" if there else "nudity is left out: install the extra [nudity]", there)


def _store(places: Places) -> Check:
    try:
        count = len(places.store().keys("gates"))
    except (StoreError, ValueError, OSError) as error:
        return Check("artifact store", str(error), False)
    return Check("artifact store", f"{places.store_url}, {count} gates", True)


def _servers(places: Places) -> Iterator[Check]:
    try:
        if (
            places.tracking_uri.startswith("sqlite")
            and not Path(places.tracking_uri.removeprefix("sqlite:///")).exists()
        ):
            lost = unnamed_bundles(places, [])
            yield Check("MLflow", f"{places.tracking_uri}, made at first use{lost and '; ' + lost}", not lost)
        else:
            versions = places.registry().models()
            lost = unnamed_bundles(places, versions)
            yield Check(
                "MLflow",
                f"{places.tracking_uri}, {len(versions)} versions{lost and '; ' + lost}",
                bool(versions) or not lost,
            )
    except (RegistryError, StoreError, ValueError, OSError) as error:
        yield Check("MLflow", str(error), False)
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        yield Check("Prefect server", "none set (PREFECT_API_URL): commands start one of their own", True)
        return
    import httpx

    user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key and not user else {}
    try:
        # Not /health, which answers everybody.
        answer = httpx.get(f"{url}/admin/version", auth=(user, password) if user else None, headers=headers, timeout=5)
    except httpx.HTTPError as error:
        yield Check(
            "Prefect server", f"{url} does not answer ({type(error).__name__}); start it, or unset the variable", False
        )
        return
    if answer.status_code in (401, 403):
        refused = "check PREFECT_API_AUTH_STRING (of `make up`: source its env file again)"
        yield Check("Prefect server", f"{url} refuses us ({answer.status_code}); {refused}", False)
        return
    yield Check("Prefect server", f"{url} answers {answer.status_code}", answer.status_code < 500)
    if answer.status_code < 400:
        yield _watcher(places)


def _watcher(places: Places) -> Check:
    from tasks.watch.watcher import watcher

    try:
        found = watcher(places)
    except (RegistryError, ValueError, OSError) as error:
        return Check("watcher", str(error), False)
    bad = [f"list {each.name} {each.state}: {each.detail}" for each in found.lists if each.is_bad]
    last = f"last tick {found.last_tick or 'none'}, {found.result}"
    return Check("watcher", "; ".join([*bad, last]), not bad)
