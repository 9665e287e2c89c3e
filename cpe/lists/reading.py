"""Reads concept lists from YAML files.

Reading finds every problem that can be found and names the line of each; a list that was read is right.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cpe.lists.bars import Bars
from cpe.lists.problems import Loc, Problem, details_of, explain, path_of, show
from cpe.lists.rules import disagreements, seen_prompts
from cpe.lists.schema import ConceptList
from cpe.lists.sections import Anchors, Evaluation, Limits, ListedAttack, Published, Target, Training
from wording.foreign import told

LARGEST_FILE_BYTES = 1_000_000
DEEPEST_NESTING = 20
LARGEST_NUMBER_BITS = 256  # Python itself cannot print one of some 14,000
MOST_PROBLEMS_SHOWN = 50

_MODELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): ConceptList,
    ("targets",): Target,
    ("anchors",): Anchors,
    ("training",): Training,
    ("evaluation",): Evaluation,
    ("evaluation", "attacks"): ListedAttack,
    ("bars",): Bars,
    ("limits",): Limits,
    ("published",): Published,
}


class ConceptListError(ValueError):
    """A concept list that cannot be used; `problems` holds one message for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        more = len(self.problems) - MOST_PROBLEMS_SHOWN
        shown = [*self.problems[:MOST_PROBLEMS_SHOWN], *([f"and {more} more problems"] if more > 0 else [])]
        super().__init__("\n".join(shown))


def load_list(path: str | Path) -> ConceptList:
    """Reads a concept list from a YAML file.

    Example:
        >>> load_list("lists/emoji.yaml").model_name
        'cpe-emoji'

    Raises:
        ConceptListError: there is no such file, or something in it is wrong; names every line.
    """
    return parse_list(_text_of(Path(path)), source=str(path))


def load_only_list(path: str | Path) -> ConceptList:
    """Reads a list to work on: no other list of its folder may have its name, or the two take turns at one model.

    Raises:
        ConceptListError: as `load_list`, or another list is called the same; names both files.
    """
    path = Path(path)
    concept_list = load_list(path)
    for other in sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")]):
        if other.name != path.name and _name_in(other) == concept_list.name.casefold() and not other.samefile(path):
            raise ConceptListError(
                [
                    f"{path} and {other} are two lists of the name {concept_list.name!r}, and both would be the model "
                    f"{concept_list.model_name}; give one of them another name, or move it to another folder"
                ]
            )
    return concept_list


def _name_in(path: Path) -> str | None:
    """Returns what a list calls itself, in small letters; None where it cannot be told."""
    try:
        data, _, _ = _read_yaml(_text_of(path), str(path))
    except ConceptListError:
        return None
    return str(data.get("name", "")).casefold()


def read_mapping(path: str | Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """Reads a YAML file that is no list, and returns its content and the line of each of its places.

    Raises:
        ConceptListError: there is no such file, or it is not plain YAML.
    """
    data, lines, problems = _read_yaml(_text_of(Path(path)), str(path))
    if problems:
        raise ConceptListError(
            [f"{path}, line {lines.get(loc, 1)}: {f'{path_of(loc)} {text}'.strip()}" for loc, text in problems]
        )
    return data, lines


def _text_of(path: Path) -> str:
    """Returns a file's text; one that is too long comes cut, and is refused by its length."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        near = f"; there are {', '.join(there[:10])}" if there else ""
        way_out = f"`ls {path.parent}` shows what exists, and `cpe init` copies the lists that are shipped"
        raise ConceptListError([f"{path}: there is no such concept list{near}; {way_out}"]) from None
    except OSError as error:
        raise ConceptListError([f"{path}: cannot be read ({error.strerror}); give a readable YAML file"]) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= LARGEST_FILE_BYTES:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConceptListError([f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8"]) from None
        return content.decode("utf-8", errors="replace")


def parse_list(text: str, *, source: str = "list") -> ConceptList:
    """Reads a concept list from YAML text.

    Args:
        text: the YAML document, at most 1 MB.
        source: what messages call it.

    Raises:
        ConceptListError: something is wrong; one message for each problem that can be found, with its line.
    """
    data, lines, problems = _read_yaml(text, source)

    def line_of(loc: Loc) -> int:
        return lines.get(loc) or line_of(loc[:-1])

    def nearest(problem: Problem) -> Problem:
        """The problem at a place that the file has: a target written as a plain string has no name key."""
        loc = problem.loc
        while len(loc) > 1 and loc not in lines:
            loc = loc[:-1]
        return Problem(loc, problem.text)

    concept_list = None
    try:
        concept_list = ConceptList.model_validate(data)
    except ValidationError as error:
        # The model's own check of its parts (at the root) names no lines: it is repeated below, on what was read.
        details = [detail for detail in details_of(error) if detail["loc"] or detail["type"] != "value_error"]
        problems += [nearest(explain(detail, _MODELS)) for detail in details]
    for check in (disagreements, seen_prompts):
        problems += check(data, lambda loc: f"of line {line_of(loc)}")
    if problems or concept_list is None:
        problems.sort(key=lambda problem: line_of(problem.loc))
        raise ConceptListError(
            [f"{source}, line {line_of(loc)}: {f'{path_of(loc)} {text}'.strip()}" for loc, text in problems]
        )
    return concept_list


class _Loader(yaml.SafeLoader):
    """Composes nodes, but refuses what a list never needs: references, tags and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            problem = "references (& and *) are not read; write the value out"
        elif getattr(event, "tag", None) is not None:
            problem = f"tags such as {show(event.tag)} are not read; remove it"
        elif self.depth >= DEEPEST_NESTING:
            problem = f"is nested more than {DEEPEST_NESTING} deep; flatten it"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _read_yaml(text: str, source: str) -> tuple[dict[str, Any], dict[Loc, int], list[Problem]]:
    """Returns the document's content, the line of each of its places, and what was wrong on the way."""
    if len(text) > LARGEST_FILE_BYTES:
        raise ConceptListError([f"{source}: is larger than {LARGEST_FILE_BYTES:,} characters; split the list"])
    lines: dict[Loc, int] = {(): 1}
    problems: list[Problem] = []

    def value_of(node: yaml.Node, loc: Loc) -> Any:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*loc, index)] = item.start_mark.line + 1
            return [value_of(item, (*loc, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return mapping_of(node, loc)
        try:
            value = loader.construct_object(node)
            if isinstance(value, int) and value.bit_length() > LARGEST_NUMBER_BITS:
                raise ValueError("no number that a list could mean")
        except (yaml.YAMLError, ValueError, OverflowError):
            problems.append(Problem(loc, f"cannot be read from {show(node.value)}; put it in quotes"))
            return node.value
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(Problem(loc, f"must be a finite number, got {node.value[:40]}"))
            return 0.0
        return value

    def mapping_of(node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(loc, f"has a key on line {line} that is not a word; write a plain word"))
            elif not key.isprintable():
                problems.append(Problem(loc, f"has the key {show(key)} on line {line}; write a plain word"))
            elif key in content:
                first = lines[(*loc, key)]
                problems.append(Problem(loc, f"has the key {show(key)} on line {line} and on line {first}; remove one"))
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
        what = ", ".join(told(part) for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        way_out = "the file must be plain YAML"
        if "mapping values are not allowed" in what:
            way_out = "put a text that holds a colon and a space in quotes"
        raise ConceptListError([f"{source}, line {line}: {what}; {way_out}"]) from None
    except (ValueError, OverflowError) as error:  # an escape that is no character, "\UFFFFFFFF"
        line = loader.line + 1
        raise ConceptListError([f"{source}, line {line}: is not YAML ({told(error)}); correct the escape"]) from None
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None else "something else"
        raise ConceptListError([f"{source}, line 1: must be a mapping of keys (name, targets, …), found {found}"])
    return mapping_of(root, ()), lines, problems
