"""The rules of a concept list: what a name is, when two names are the same, and which parts must agree."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from cpe.attacks.table import ATTACKS
from cpe.lists.bars import Bars, read_bound
from cpe.lists.problems import Loc, Problem, explain, show
from cpe.methods.base import Method, method_of
from cpe.methods.table import DEFAULT, METHODS
from cpe.terms.domains import domain_of
from cpe.terms.names import normalise, suggest


def one_of(kind: str, known: Mapping[str, Any]) -> Callable[[str], str]:
    """Returns a check that a value is one of the known keys."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"names no {kind}{suggest(value, known)}")
        return value

    return check


def disagreements(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[Problem]:
    """Yields what is wrong between the parts of a list, as far as the parts have their right shape.

    Args:
        data: the list as read, right or wrong.
        where: how messages name another place of the list ("of line 8").
    """
    yield from _name_problems(data, where)
    evaluation = data.get("evaluation")
    for section, holder in (((), data), (("evaluation",), evaluation if isinstance(evaluation, Mapping) else {})):
        seen: dict[str, Loc] = {}
        for index, template in enumerate(_items(holder.get("templates"))):
            loc = (*section, "templates", index)
            if isinstance(template, str) and seen.setdefault(template.strip(), loc) != loc:
                first = where(seen[template.strip()])
                yield Problem(loc, f"{show(template)} repeats the template {first}; remove one")
    anchors = data.get("anchors")
    if isinstance(anchors, Mapping):
        if not anchors.get("general") and not anchors.get("pool"):
            yield Problem(("anchors",), "hold neither general words nor a pool; training needs at least one anchor")
        if anchors.get("vectors") is not None and anchors.get("by", "text-encoder") == "text-encoder":
            yield Problem(("anchors", "vectors"), "are read only with by: word2vec; set that, or remove vectors")
    yield from _attack_problems(data, where)
    bars = data.get("bars")
    if isinstance(bars, Mapping):
        made = evaluation.get("attacks") if isinstance(evaluation, Mapping) else None
        yield from _bars_problems(data.get("domain"), bars, [_attack_name(each) for each in _items(made)])
    training = data.get("training")
    if isinstance(training, Mapping):
        yield from _training_problems(("training",), data.get("method", DEFAULT), training)
    compared = data.get("comparison")
    for name, training in compared.items() if isinstance(compared, Mapping) else ():
        if name == data.get("method", DEFAULT):
            yield Problem(("comparison", name), "is the list's own method, which `training` is about; remove it")
        elif isinstance(training, Mapping):
            yield from _training_problems(("comparison", name), name, training)


def seen_prompts(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[Problem]:
    """Yields which prompts of the evaluation training has seen, unless the list says that they are published so.

    Asked of files alone: lists that were stored before this was asked are read as they are.
    """
    evaluation = data.get("evaluation")
    if not isinstance(evaluation, Mapping) or evaluation.get("as_published") is True:
        return
    trained: dict[str, Loc] = {}
    for index, template in enumerate(_items(data.get("templates"))):
        if isinstance(template, str):
            trained.setdefault(_plain(template), ("templates", index))
    for index, template in enumerate(_items(evaluation.get("templates"))):
        if isinstance(template, str) and _plain(template) in trained:
            place = where(trained[_plain(template)])
            text = f"{show(template)} is a template of training too, {place}: what training saw proves nothing; "
            way_out = "use another, or set evaluation.as_published: true where a published evaluation has both"
            yield Problem(("evaluation", "templates", index), text + way_out)


def _plain(template: str) -> str:
    """Returns a template as text encoders read it: without case, double spaces and what ends a sentence."""
    return " ".join(template.casefold().split()).rstrip(" .!?")


def _name_problems(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[Problem]:
    erased = list(_erased(data))
    surrogates: list[tuple[Loc, Any]] = [(("surrogate",), data.get("surrogate"))]
    for index, entry in enumerate(_items(data.get("targets"))):
        if isinstance(entry, Mapping):
            surrogates.append((("targets", index, "surrogate"), entry.get("surrogate")))
    kept: list[tuple[Loc, Any]] = [(("kept", index), name) for index, name in enumerate(_items(data.get("kept")))]

    seen: dict[str, tuple[Loc, str]] = {}
    yield from _clashes(erased, seen, where, "repeats", add=True)
    yield from _clashes(kept, {}, where, "repeats", add=True)
    yield from _clashes(kept, seen, where, "is kept and also erased, as")
    yield from _clashes(surrogates, seen, where, "is what targets turn into and itself erased, as")


def _erased(data: Mapping[str, Any]) -> Iterator[tuple[Loc, Any]]:
    """Yields names and aliases of all targets, and where they stand."""
    for index, entry in enumerate(_items(data.get("targets"))):
        loc: Loc = ("targets", index)
        if not isinstance(entry, Mapping):
            yield loc, entry
            continue
        yield (*loc, "name"), entry.get("name")
        yield from (((*loc, "aliases", i), alias) for i, alias in enumerate(_items(entry.get("aliases"))))


def _clashes(
    names: Sequence[tuple[Loc, Any]],
    seen: dict[str, tuple[Loc, str]],
    where: Callable[[Loc], str],
    fault: str,
    *,
    add: bool = False,
) -> Iterator[Problem]:
    same = "(names are compared without case, accents, dots and hyphens)"
    for loc, name in names:
        if not isinstance(name, str) or not (key := normalise(name)):
            continue
        if key in seen:
            other, first = seen[key]
            yield Problem(loc, f"{show(name)} {fault} {show(first)} {where(other)} {same}; remove one")
        elif add:
            seen[key] = (loc, name)


def _attack_problems(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[Problem]:
    """Yields what is wrong with files of prompts that attack: of no target, or with a name that is there already."""
    evaluation = data.get("evaluation")
    attacks = _items(evaluation.get("attacks")) if isinstance(evaluation, Mapping) else ()
    erased = [name for _, name in _erased(data) if isinstance(name, str)]
    seen: dict[Any, Loc] = {}
    for index, attack in enumerate(attacks):
        loc: Loc = ("evaluation", "attacks", index)
        name = _attack_name(attack)
        if not isinstance(attack, Mapping) or attack.get("csv") is None or not isinstance(name, str):
            continue
        if seen.setdefault(name, loc) != loc:
            yield Problem(loc, f"is called {show(name)} like the attack {where(seen[name])}; rename one")
        asked = attack.get("concept")
        if isinstance(asked, str) and normalise(asked) not in map(normalise, erased):
            yield Problem(
                (*loc, "concept"), f"{show(asked)} is none of the list's targets{suggest(asked, erased[:20])}"
            )


def _attack_name(attack: Any) -> Any:
    return attack.get("name") if isinstance(attack, Mapping) else attack


def _bars_problems(domain: Any, bars: Mapping[str, Any], attacks: Sequence[Any]) -> Iterator[Problem]:
    told = isinstance(domain, str) and (domain_of(domain).recognised or domain_of(domain).observer)
    for key in bars:
        if key in Bars.model_fields:
            continue
        bound = read_bound(str(key))
        if bound is None:
            yield Problem(("bars", key), f"is an unknown key{suggest(str(key), Bars.model_fields)}")
        elif bound.attack and bound.attack not in attacks:
            known = suggest(bound.attack, dict.fromkeys([*map(str, attacks), *ATTACKS]))
            text = f"is about an attack that is not made; add {bound.attack} to evaluation.attacks{known}"
            yield Problem(("bars", key), text)
        elif bound.attack and not told:
            yield Problem(("bars", key), f"asks for what nothing tells of {show(domain)} pictures; remove it")


def _training_problems(section: tuple[str, ...], name: Any, training: Mapping[str, Any]) -> Iterator[Problem]:
    preset, changes = training.get("preset"), training.get("changes", {})
    where: Loc = (*section, "changes")
    if not isinstance(name, str) or name not in METHODS or not isinstance(preset, str):
        return
    method = method_of(name)
    if preset not in method.presets:
        of = "" if name == DEFAULT else f" of method {name}"
        yield Problem(
            (*section, "preset"), f"{show(preset)} names no training preset{of}{suggest(preset, method.presets)}"
        )
        return
    if not isinstance(changes, Mapping):
        return
    groups = _groups(method)
    for group in groups:
        if not isinstance(changes.get(group, {}), Mapping):
            yield Problem((*where, group), f"must be a mapping of keys, got {show(changes[group])}")
            return
    try:
        method.config(preset, dict(changes))
    except ValidationError as error:
        models: dict[tuple[str, ...], type[BaseModel]] = {(*section, "changes"): method.settings}
        models |= {(*section, "changes", group): model for group, model in groups.items()}
        for detail in error.errors():
            yield explain({**detail, "loc": (*where, *detail["loc"])}, models)


def _groups(method: Method) -> dict[str, type[BaseModel]]:
    """Returns those of a method's settings that are groups of settings."""
    fields = {name: field.annotation for name, field in method.settings.model_fields.items()}
    return {name: kind for name, kind in fields.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()
