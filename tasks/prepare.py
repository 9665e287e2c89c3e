"""Concept preparation: list, anchors and gate addresses, and the prompt embeddings they need."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.hashing import content_hash
from cpe.evaluation.sets import check_pictures, evaluation_sets
from cpe.lists.anchors import anchor_names
from cpe.lists.comparison import Way
from cpe.lists.reading import ConceptListError, load_only_list, read_mapping
from cpe.lists.schema import ConceptList
from cpe.methods.base import method_of
from cpe.methods.table import DEFAULT
from cpe.terms.domains import PEOPLE, domain_of
from cpe.terms.names import suggest
from cpe.terms.profiles import PROFILES, Profile
from tasks.embed import cached_texts, embedding_cache
from tasks.here.places import Places
from tasks.plan import GatePlan, Plan
from wording.foreign import show

if TYPE_CHECKING:
    from cpe.models.embeddings import EmbeddingCache


def find_list(places: Places, name: str) -> Path:
    """Returns the path of a list given by path, or by its name among the lists of these places."""
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") else places.lists() / f"{name}.yaml"


def check_list(places: Places, name: str, profile: str | None = None) -> ConceptList:
    """Reads a list and everything it names in seconds, before a server is started or weights are loaded.

    Args:
        places: where lists and files of prompts are.
        name: a path, or a name among the lists.
        profile: how pictures are made, in place of the list's own profile.

    Returns:
        The list.

    Raises:
        ConceptListError: something in it is wrong, or it names a set that there is no file for.
        ValueError: it cannot be run: no such base model, a file of prompts with a bad row or none, too many pictures.
    """
    path = find_list(places, name)
    concept_list = _in_profile(load_only_list(path), profile)
    _require_recogniser(concept_list, path)
    from cpe.models.loading import model_folder  # loads torch, which is not waited for to say that there is no list

    model_folder(concept_list.base_model)
    sets, _ = evaluation_sets(concept_list, folders=(path.parent, places.lists()), data=places.data)
    check_pictures(concept_list, sets)
    return concept_list


def prepare_concepts(places: Places, name: str, profile: str | None = None, way: Way | None = None) -> Plan:
    """Reads a list, chooses every target's anchors and works out which gates and pictures it needs.

    Args:
        places: where lists, base models and embeddings are.
        name: a path, or a name among the lists.
        profile: how pictures are made, in place of the list's own profile.
        way: of erasing, in place of the list's own method, training and seed.
    """
    path = find_list(places, name)
    listed = load_only_list(path)
    from cpe.attacks.learned.slots import family_with_one_encoder
    from cpe.models.fingerprints import fingerprint, text_fingerprint
    from cpe.models.text import unread_names
    from cpe.models.videos import frames_asked

    listed_hash, concept_list = listed.content_hash, _in_profile(way.of(listed) if way else listed, profile)
    _require_recogniser(concept_list, path)
    sets, set_notes = evaluation_sets(concept_list, folders=(path.parent, places.lists()), data=places.data)
    pipe = places.loaded(concept_list.base_model)
    if any(each.search for each in sets):
        family_with_one_encoder(pipe)  # refused now, not once everything is trained
    profile_used = PROFILES[concept_list.profile]
    frames_asked(pipe, profile_used)  # likewise
    mark, text_mark = fingerprint(pipe), text_fingerprint(pipe)
    notes = [*set_notes, *(each.taken for each in sets if each.taken), *_about_videos(profile_used)]
    for name, read_as in unread_names(pipe, concept_list.erased_names).items():
        notes.append(f"The tokenizer reads the target {name!r} as {read_as!r}: check its spelling, or add an alias.")
    method = method_of(concept_list.method)
    own = profile_used.guidance_scale
    drawn = method.drawn_at(concept_list.training_config, own)
    if drawn != own:
        notes.append(
            f"With {method.name}, pictures are drawn at a guidance of {drawn:g}, where profile "
            f"{concept_list.profile!r} has {own:g} (none): each step takes the network two rows a picture."
        )
    kept = [name for each in sets if each.role == "kept" for name in each.concepts]
    unseen = kept if concept_list.anchors.protocol == "leak-free" else []
    rankings = _rankings(concept_list, unseen, embedding_cache(places, text_mark), lambda: pipe, notes)
    shared = {
        "algorithm": method.version,
        "templates": concept_list.templates,
        "training": concept_list.training_config.model_dump(),
        "base": mark,
        "seed": concept_list.seed,
    } | ({} if method.name == DEFAULT else {"method": method.name})
    gates = []
    for target in concept_list.targets:
        ranked = rankings[target.name]
        anchors = anchor_names(concept_list, target.name, ranked, unseen=unseen)
        if not anchors:
            raise ValueError(
                f"{path}: nothing is left to anchor {target.name!r} once erased and kept names are taken out; "
                "add anchors.general words or names to anchors.pool"
            )
        surrogate = concept_list.surrogate_of(target.name)
        names = (target.name, *target.aliases)
        others = anchor_names(concept_list, target.name, ranked, unseen=unseen, others=True)
        determined_by = {"names": names, "surrogate": surrogate, "anchors": others}
        address = content_hash(shared | determined_by)[:24]
        gates.append(GatePlan(concept=target.name, names=names, surrogate=surrogate, anchors=anchors, address=address))
    if method.joint:
        together = content_hash(shared | {"concepts": [gate.model_dump(exclude={"address"}) for gate in gates]})[:24]
        gates = [gate.model_copy(update={"address": together}) for gate in gates]
    return Plan(
        source=str(path),
        concepts=concept_list,
        fingerprint=mark,
        text_fingerprint=text_mark,
        gates=tuple(gates),
        sets=sets,
        notes=tuple(notes),
        listed_hash=listed_hash,
    )


def _about_videos(profile: Profile) -> list[str]:
    """Returns what to say of an evaluation of videos; nothing of one of pictures."""
    if profile.frames is None:
        return []
    from cpe.models.videos import can_write

    told = [
        f"Videos of {profile.frames} frames: of each the frames {', '.join(map(str, profile.kept))} (from 0) are "
        "measured, every one as a picture of its prompt; intervals take frames of one concept as going together."
    ]
    return told if can_write() else [*told, "No MP4 files are kept beside the frames: install the extra [video]."]


def _in_profile(concept_list: ConceptList, profile: str | None) -> ConceptList:
    if profile is None:
        return concept_list
    if profile not in PROFILES:
        raise ValueError(f"no profile {show(profile)}{suggest(profile, PROFILES)}")
    return ConceptList.model_validate({**concept_list.model_dump(), "profile": profile})


def _require_recogniser(concept_list: ConceptList, path: Path) -> None:
    """Refuses what the embedded classifiers cannot recognise: it would pass for erased without being seen.

    Raises:
        ConceptListError: nouns, styles or people that they do not know, with their lines and the nearest they know.
    """
    from cpe.embedded.people import people
    from cpe.embedded.subjects import KNOWN

    domain = concept_list.domain
    known = KNOWN.get(domain_of(domain).recognised)
    if domain_of(domain).observer == PEOPLE and PROFILES[concept_list.profile].features == "embedded":
        known = people()
    if known is None:
        return
    named = {("targets", index): target.name for index, target in enumerate(concept_list.targets)}
    named |= {("kept", index): name for index, name in enumerate(concept_list.kept)}
    unknown = {loc: name for loc, name in named.items() if name not in known}
    if unknown:
        _, lines = read_mapping(path)
        raise ConceptListError(
            [
                f"{path}, line {lines.get(loc, 1)}: the classifier does not know the {domain} {name!r}, so erasing or "
                f"keeping it cannot be measured{suggest(name, known)}"
                for loc, name in unknown.items()
            ]
        )


def _rankings(
    concept_list: ConceptList,
    unseen: Sequence[str],
    cache: "EmbeddingCache",
    loaded: Callable[[], Any],
    notes: list[str],
) -> dict[str, list[str]]:
    """Returns the candidates for each target's anchors, nearest first."""
    pool = list(concept_list.anchors.pool)
    targets = [target.name for target in concept_list.targets]
    if concept_list.anchors.by == "word2vec":
        return {target: _nearest_words(concept_list, target, unseen, notes) for target in targets}
    from cpe.words.by_embedding import rank_by_embedding

    rows, table = cached_texts(cache, [*targets, *pool], loaded)
    return rank_by_embedding({name: table[rows[name]] for name in targets}, {name: table[rows[name]] for name in pool})


def _nearest_words(concept_list: ConceptList, target: str, unseen: Sequence[str], notes: list[str]) -> list[str]:
    """Returns the pool, or the whole vocabulary if there is none, by Word2Vec; notes what has no vector."""
    from cpe.words.neighbors import WordVectors

    anchors = concept_list.anchors
    vectors = WordVectors.load(anchors.vectors)
    phrase = vectors.vector(target)
    if not phrase.exact:
        missing = f", {', '.join(phrase.missing)} unknown" if phrase.missing else ""
        notes.append(
            f"{target!r} has no word vector of its own; its neighbours are those of the mean of "
            f"{', '.join(phrase.found)}{missing}."
        )
    if not anchors.pool:
        most = anchors.neighbors + len(anchors.general) + len(concept_list.erased_names)  # some of them will not serve
        return [found.name for found in vectors.neighbors(target, most, exclude=unseen)]
    ranking = vectors.rank(target, list(anchors.pool))
    if ranking.unknown:
        notes.append(f"No word vector, so no anchor of {target!r}: {', '.join(ranking.unknown)}.")
    return list(ranking.names)
