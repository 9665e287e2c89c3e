"""Concept lists: what to erase, what to keep, how to train and when the result is good enough.

A list is a YAML file. Reading it finds every problem that can be found and names the line of each; a list
that was read is right, and its content hash depends neither on comments nor on the order of keys.
"""

import difflib
import hashlib
import json
import math
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError, model_validator

from cpe.config import PRESETS, PROFILES, GateConfig, Settings, TrainingConfig, training_config

LONGEST_NAME = 200
LARGEST_FILE_BYTES = 1_000_000
DEEPEST_NESTING = 20
MOST_PROBLEMS_SHOWN = 50

Loc = tuple[str | int, ...]  # where a value stands in a list: ("targets", 3, "aliases", 0)


class ConceptListError(ValueError):
    """A concept list that cannot be used; `problems` holds one message for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        more = len(self.problems) - MOST_PROBLEMS_SHOWN
        shown = [*self.problems[:MOST_PROBLEMS_SHOWN], *([f"and {more} more problems"] if more > 0 else [])]
        super().__init__("\n".join(shown))


class _Problem(NamedTuple):
    loc: Loc
    text: str


def normalise(name: str) -> str:
    """Returns a name as names are compared: without case, accents, dots and hyphens, single-spaced.

    Only accents go (combining classes from 200 on): vowel signs and voicing marks of other scripts tell names apart.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if unicodedata.combining(character) >= 200 or category == "Cf":
            continue
        kept.append(" " if character in "._·" or category == "Pd" else "'" if character in "’‘ʼ" else character)
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def _name(value: str) -> str:
    value = unicodedata.normalize("NFC", value)
    if not normalise(value):
        raise ValueError("is empty; write a name")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"is {len(value)} characters long, at most {LONGEST_NAME} are allowed; shorten it")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise ValueError(f"holds the control character U+{ord(character):04X}; remove it")
    return value


def _template(value: str) -> str:
    if value.count("{}") != 1 or value.count("{") != 1 or value.count("}") != 1:
        raise ValueError('must hold "{}" exactly once and no other brace; the concept\'s name goes there')
    return _name(value)


def _one_of(kind: str, known: Mapping[str, Any]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"names no {kind}{_suggest(value, known)}")
        return value

    return check


def _suggest(value: str, known: Iterator[str] | Mapping[str, Any] | Sequence[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(value[:LONGEST_NAME], names, 1)
    return (f"; did you mean {near[0]!r}?" if near else "; there is no such one,") + f" known: {', '.join(names)}"


_Text = Annotated[str, StringConstraints(strip_whitespace=True)]
Name = Annotated[_Text, AfterValidator(_name)]
Template = Annotated[_Text, AfterValidator(_template)]
Count = Annotated[int, Field(strict=True)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class Target(Settings):
    """One concept to erase; in a file a plain string stands for its name.

    Attributes:
        name: as it is written into prompts.
        aliases: other names of the same concept; never anchors.
        surrogate: what it turns into, where not the list's surrogate.
    """

    name: Name
    aliases: tuple[Name, ...] = ()
    surrogate: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, (Mapping, Target)):
            return value
        raise ValueError(f"must be a name or a mapping with one, YAML reads it as {_kind(value)}; put it in quotes")


class Anchors(Settings):
    """What must not change.

    Attributes:
        general: general words of the domain.
        pool: names among which the neighbours of a target are found; empty with word2vec: the whole vocabulary.
        neighbors: how many of them serve a target.
        by: what nearness is measured with.
        vectors: a word2vec or GloVe file; None is the shipped table.
        exclude_kept: whether kept names are left out, so that the evaluation stays unseen.
    """

    general: tuple[Name, ...] = ()
    pool: tuple[Name, ...] = ()
    neighbors: Count = Field(50, ge=0)
    by: Literal["text-encoder", "word2vec"] = "text-encoder"
    vectors: Name | None = None
    exclude_kept: bool = Field(True, strict=True)


class Training(Settings):
    """A training preset and the settings changed in it."""

    preset: Annotated[str, AfterValidator(_one_of("training preset", PRESETS))]
    changes: dict[str, Any] = Field(default_factory=dict)


class Evaluation(Settings):
    """Prompts of the evaluation: every template with seeds 0 to `seeds` − 1."""

    templates: tuple[Template, ...] = Field(min_length=1)
    seeds: Count = Field(5, ge=1, le=100_000)


class Bars(Settings):
    """What a bundle must reach before it is promoted; None asks nothing.

    Attributes:
        erased_accuracy_at_most: share of the erased concepts' pictures still recognised.
        kept_ratio_at_least: accuracy on kept concepts, as a share of the untouched model's.
        h0_at_least: harmonic mean of 1 - erased accuracy and kept accuracy.
        other_ratio_at_least: accuracy on kept concepts' other property (style of nouns, noun of styles), as a
            share of the untouched model's.
    """

    erased_accuracy_at_most: Share | None = None
    kept_ratio_at_least: Annotated[float, Field(strict=True, ge=0)] | None = None
    h0_at_least: Share | None = None
    other_ratio_at_least: Annotated[float, Field(strict=True, ge=0)] | None = None


class ConceptList(Settings):
    """A list of concepts to erase, and all that its training and promotion need.

    Attributes:
        name: letters, digits and hyphens; the registered model is called `model_name`.
        domain: what the accuracy is measured on.
        base_model: "embedded", a folder in diffusers' layout, or a name on the hub.
        profile: how pictures are made, a key of `cpe.config.PROFILES`.
        surrogate: what every target turns into.
        targets: the concepts to erase, one gate each.
        kept: names that must survive, evaluated.
        templates: training prompts, one "{}" each.
        seed: everything random derives from it.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$", max_length=100)]
    domain: Literal["noun", "style", "celebrity", "artist", "explicit"]
    base_model: Name
    profile: Annotated[str, AfterValidator(_one_of("profile", PROFILES))]
    surrogate: Name
    targets: tuple[Target, ...] = Field(min_length=1)
    kept: tuple[Name, ...] = ()
    templates: tuple[Template, ...] = Field(min_length=1)
    anchors: Anchors
    training: Training
    evaluation: Evaluation
    bars: Bars = Bars()
    seed: Count = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _parts_agree(self) -> "ConceptList":
        problems = list(_disagreements(self.model_dump(), lambda loc: f"of {_path(loc)}"))
        if problems:
            raise ValueError("; ".join(f"{_path(problem.loc)} {problem.text}" for problem in problems))
        return self

    @property
    def model_name(self) -> str:
        """The name under which the list's bundles are registered."""
        return f"cpe-{self.name}"

    @property
    def training_config(self) -> TrainingConfig:
        """The preset with the list's changes and its number of neighbours."""
        return training_config(
            self.training.preset, self.training.changes | {"anchor_neighbors": self.anchors.neighbors}
        )

    @property
    def content_hash(self) -> str:
        """SHA-256 of the list's canonical JSON, 64 hexadecimal digits."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def erased_names(self) -> tuple[str, ...]:
        """Names and aliases of all targets."""
        return tuple(name for target in self.targets for name in (target.name, *target.aliases))

    def target(self, name: str) -> Target:
        """Returns the target that has this name or alias.

        Raises:
            LookupError: no target has it.
        """
        for target in self.targets:
            if normalise(name) in map(normalise, (target.name, *target.aliases)):
                return target
        names = [target.name for target in self.targets]
        raise LookupError(f"list {self.name!r} erases no {name!r}{_suggest(name, names[:20])}")

    def surrogate_of(self, name: str) -> str:
        """Returns what a target turns into: its own surrogate, or the list's."""
        return self.target(name).surrogate or self.surrogate


def anchor_names(concept_list: ConceptList, target: str, ranked: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that anchor one target: the general words, then its nearest neighbours.

    Args:
        concept_list: the list.
        target: name or alias of one of its targets.
        ranked: candidates, nearest to the target first. Names that may not serve do not count, so
            `anchors.neighbors` of them are taken wherever the ranking is long enough.

    Returns:
        No name twice, none that the list erases, not the surrogate, and with `exclude_kept` none that it keeps.
    """
    anchors = concept_list.anchors
    blocked = [*concept_list.erased_names, concept_list.surrogate_of(target)]
    seen = set(map(normalise, [*blocked, *(concept_list.kept if anchors.exclude_kept else ())]))
    chosen: list[str] = []

    def take(names: Sequence[str], most: int) -> None:
        for name in names:
            if most > 0 and (key := normalise(name)) and key not in seen:
                seen.add(key)
                chosen.append(name)
                most -= 1

    take(anchors.general, len(anchors.general))
    take(ranked, anchors.neighbors)
    return tuple(chosen)


def load_list(path: str | Path) -> ConceptList:
    """Reads a concept list from a YAML file.

    Raises:
        ConceptListError: there is no such file, or something in it is wrong; names every line.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        near = f"; there are {', '.join(there[:10])}" if there else ""
        way_out = f"`ls {path.parent}` shows what exists"
        raise ConceptListError([f"{path}: there is no such concept list{near}; {way_out}"]) from None
    except OSError as error:
        raise ConceptListError([f"{path}: cannot be read ({error.strerror}); give a readable YAML file"]) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= LARGEST_FILE_BYTES:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConceptListError([f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8"]) from None
        text = content.decode("utf-8", errors="replace")
    return parse_list(text, source=str(path))


def parse_list(text: str, *, source: str = "list") -> ConceptList:
    """Reads a concept list from YAML text.

    Args:
        text: the YAML document, at most 1 MB.
        source: what messages call it.

    Raises:
        ConceptListError: something is wrong; one message for each problem that can be found, with its line.
    """
    if len(text) > LARGEST_FILE_BYTES:
        raise ConceptListError([f"{source}: is larger than {LARGEST_FILE_BYTES:,} characters; split the list"])
    data, lines, problems = _read_yaml(text, source)

    def line_of(loc: Loc) -> int:
        return lines.get(loc) or line_of(loc[:-1])

    concept_list = None
    try:
        concept_list = ConceptList.model_validate(data)
    except ValidationError as error:
        # The model's own check of its parts (at the root) names no lines: it is repeated below, on what was read.
        details = [dict(detail) for detail in error.errors() if detail["loc"] or detail["type"] != "value_error"]
        problems += [_explain(detail, lines) for detail in details]
    problems += _disagreements(data, lambda loc: f"of line {line_of(loc)}")
    if problems or concept_list is None:
        problems.sort(key=lambda problem: line_of(problem.loc))
        raise ConceptListError(
            [f"{source}, line {line_of(loc)}: {f'{_path(loc)} {text}'.strip()}" for loc, text in problems]
        )
    return concept_list


def _disagreements(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[_Problem]:
    """Yields what is wrong between the parts of a list, as far as the parts have their right shape."""
    yield from _name_problems(data, where)
    evaluation = data.get("evaluation")
    for section, holder in (((), data), (("evaluation",), evaluation if isinstance(evaluation, Mapping) else {})):
        seen: dict[str, Loc] = {}
        for index, template in enumerate(_items(holder.get("templates"))):
            loc = (*section, "templates", index)
            if isinstance(template, str) and seen.setdefault(template.strip(), loc) != loc:
                first = where(seen[template.strip()])
                yield _Problem(loc, f"{_show(template)} repeats the template {first}; remove one")
    anchors = data.get("anchors")
    if isinstance(anchors, Mapping):
        if not anchors.get("general") and not anchors.get("pool"):
            yield _Problem(("anchors",), "hold neither general words nor a pool; training needs at least one anchor")
        if anchors.get("vectors") is not None and anchors.get("by", "text-encoder") == "text-encoder":
            yield _Problem(("anchors", "vectors"), "are read only with by: word2vec; set that, or remove vectors")
    training = data.get("training")
    if isinstance(training, Mapping):
        yield from _training_problems(training.get("preset"), training.get("changes", {}))


def _name_problems(data: Mapping[str, Any], where: Callable[[Loc], str]) -> Iterator[_Problem]:
    erased: list[tuple[Loc, Any]] = []
    surrogates: list[tuple[Loc, Any]] = [(("surrogate",), data.get("surrogate"))]
    for index, entry in enumerate(_items(data.get("targets"))):
        loc: Loc = ("targets", index)
        if not isinstance(entry, Mapping):
            erased.append((loc, entry))
            continue
        erased.append(((*loc, "name"), entry.get("name")))
        erased += [((*loc, "aliases", i), alias) for i, alias in enumerate(_items(entry.get("aliases")))]
        surrogates.append(((*loc, "surrogate"), entry.get("surrogate")))
    kept: list[tuple[Loc, Any]] = [(("kept", index), name) for index, name in enumerate(_items(data.get("kept")))]

    seen: dict[str, tuple[Loc, str]] = {}
    yield from _clashes(erased, seen, where, "repeats", add=True)
    yield from _clashes(kept, {}, where, "repeats", add=True)
    yield from _clashes(kept, seen, where, "is kept and also erased, as")
    yield from _clashes(surrogates, seen, where, "is what targets turn into and itself erased, as")


def _clashes(
    names: Sequence[tuple[Loc, Any]],
    seen: dict[str, tuple[Loc, str]],
    where: Callable[[Loc], str],
    fault: str,
    *,
    add: bool = False,
) -> Iterator[_Problem]:
    same = "(names are compared without case, accents, dots and hyphens)"
    for loc, name in names:
        if not isinstance(name, str) or not (key := normalise(name)):
            continue
        if key in seen:
            other, first = seen[key]
            yield _Problem(loc, f"{_show(name)} {fault} {_show(first)} {where(other)} {same}; remove one")
        elif add:
            seen[key] = (loc, name)


def _training_problems(preset: Any, changes: Any) -> Iterator[_Problem]:
    where: Loc = ("training", "changes")
    if not isinstance(preset, str) or preset not in PRESETS or not isinstance(changes, Mapping):
        return
    if "anchor_neighbors" in changes:
        yield _Problem((*where, "anchor_neighbors"), "is set by anchors.neighbors; change it there")
    if not isinstance(changes.get("gate", {}), Mapping):
        yield _Problem((*where, "gate"), f"must be a mapping of keys, got {_show(changes['gate'])}")
        return
    try:
        training_config(preset, dict(changes))
    except ValidationError as error:
        for detail in error.errors():
            yield _explain({**detail, "loc": (*where, *detail["loc"])}, None)


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): ConceptList,
    ("targets",): Target,
    ("anchors",): Anchors,
    ("training",): Training,
    ("training", "changes"): TrainingConfig,
    ("training", "changes", "gate"): GateConfig,
    ("evaluation",): Evaluation,
    ("bars",): Bars,
}


def _explain(detail: dict[str, Any], lines: Mapping[Loc, int] | None) -> _Problem:
    """Returns pydantic's finding in the words of this module."""
    loc, kind, value = detail["loc"], detail["type"], detail["input"]
    parent = _MODELS.get(tuple(part for part in loc[:-1] if isinstance(part, str)))
    if kind == "missing":
        return _Problem(loc[:-1], f"needs the key {loc[-1]!r}; add it")
    if kind == "extra_forbidden" and parent is not None:
        return _Problem(loc, f"is an unknown key{_suggest(str(loc[-1]), list(parent.model_fields))}")
    while lines is not None and len(loc) > 1 and loc not in lines:  # a target written as a plain string has no name key
        loc = loc[:-1]
    shown = _show(value)
    if kind == "value_error":
        text = str(detail["ctx"]["error"])
        return _Problem(loc, f"{shown} {text}" if isinstance(value, str) else text)
    if kind == "string_type":
        return _Problem(loc, f"must be text, YAML reads {shown} as {_kind(value)}; put it in quotes")
    if kind in ("tuple_type", "list_type"):
        return _Problem(loc, f"must be a list, one line starting with '- ' for each, got {shown}")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return _Problem(loc, f"must be a mapping of keys, got {shown}")
    if kind == "too_short":
        return _Problem(loc, "is empty; give at least one")
    if kind == "string_pattern_mismatch":
        return _Problem(loc, f"must be letters, digits and single hyphens, such as celebrity-50, got {shown}")
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return _Problem(loc, f"cannot be {shown}{_suggest(str(value), known)}")
    return _Problem(
        loc, f"{detail['msg'].replace('Input should', 'must').replace('String should', 'must')}, got {shown}"
    )


def _show(value: Any) -> str:
    short = reprlib.Repr()
    short.maxstring = 80
    return short.repr(value)


def _kind(value: Any) -> str:
    names = {
        bool: "yes or no",
        int: "a number",
        float: "a number",
        type(None): "nothing",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _path(loc: Loc) -> str:
    def key(part: str) -> str:
        return part if part.isprintable() and len(part) <= LONGEST_NAME else _show(part)

    return "".join(f"[{part}]" if isinstance(part, int) else f".{key(part)}" for part in loc).removeprefix(".")


class _Loader(yaml.SafeLoader):
    """Composes nodes, but refuses what a list never needs: references, tags and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "references (& and *) are not read; write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"tags such as {event.tag!r} are not read; remove it"
        elif self.depth >= DEEPEST_NESTING:
            problem = f"is nested more than {DEEPEST_NESTING} deep; flatten it"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _read_yaml(text: str, source: str) -> tuple[dict[str, Any], dict[Loc, int], list[_Problem]]:
    """Returns the document's content, the line of each of its places, and what was wrong on the way."""
    lines: dict[Loc, int] = {(): 1}
    problems: list[_Problem] = []

    def value_of(node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*loc, index)] = item.start_mark.line + 1
            return [value_of(item, (*loc, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return mapping_of(node, loc)
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError):
            problems.append(_Problem(loc, f"cannot be read from {_show(node.value)}; put it in quotes"))
            return node.value
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(_Problem(loc, f"must be a finite number, got {node.value}"))
            return 0.0
        return value

    def mapping_of(node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(_Problem(loc, f"has a key on line {line} that is not a word; write a plain word"))
            elif not key.isprintable():
                problems.append(_Problem(loc, f"has the key {_show(key)} on line {line}; write a plain word"))
            elif key in content:
                first = lines[(*loc, key)]
                problems.append(
                    _Problem(loc, f"has the key {_show(key)} on line {line} and on line {first}; remove one")
                )
            else:
                lines[(*loc, key)] = line
                content[key] = value_of(value_node, (*loc, key))
        return content

    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise ConceptListError([f"{source}, line {line}: holds the control character {character}; remove it"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        raise ConceptListError([f"{source}, line {line}: {what}; the file must be plain YAML"]) from None
    except (ValueError, OverflowError) as error:  # an escape that is no character, "\UFFFFFFFF"
        line = loader.line + 1
        raise ConceptListError([f"{source}, line {line}: is not YAML ({error}); correct the escape"]) from None
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "something else"
        raise ConceptListError([f"{source}, line 1: must be a mapping of keys (name, targets, …), found {found}"])
    return mapping_of(root, ()), lines, problems
