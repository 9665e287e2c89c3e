"""What the page answers to each of its buttons: values for its parts, and one message, also where something is wrong.

Plain functions of what a visitor chose; nothing of a visit is kept here.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from artifacts.registry.versions import MODEL_PREFIX
from flows.page import shown
from flows.terminal.command import BAD_INPUT
from tasks.page.bench import Asked, Bench, Setting
from tasks.page.changes import promote, take_back
from tasks.page.opening import Opened
from tasks.page.prompts import draw_pairs, packed, prompts_of, read_rows, side_by_side
from tasks.page.shelf import label_of, reference_of
from tasks.page.tables import compared, lists_with_results, tables_of
from wording.foreign import printable

NOTHING = "No version is registered: the model draws untouched. `cpe erase LIST` makes one."


def told(parts: int) -> Callable[[Callable[..., tuple[Any, ...]]], Callable[..., tuple[Any, ...]]]:
    """Puts a message before a function's values; where it raises, the message alone is new and the parts are emptied.

    Args:
        parts: how many values the function returns.
    """

    def telling(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        @wraps(function)
        def answered(*arguments: Any, **options: Any) -> tuple[Any, ...]:
            try:
                return ("", *function(*arguments, **options))
            except BAD_INPUT as error:
                text = printable(str(error.args[0] if isinstance(error, KeyError) and error.args else error))
                return (shown.message(text or type(error).__name__, wrong=True), *[None] * parts)

        return answered

    return telling


class Answers:
    """The answers of one page.

    Args:
        opened: the bench, and what is shown first.
        scratch: folder of the files that visitors download; gone when the page ends.
    """

    def __init__(self, opened: Opened, scratch: Path) -> None:
        self.bench: Bench = opened.bench
        self.opened, self.scratch, self.places = opened, scratch, opened.bench.shelf.places

    def choices(self) -> list[tuple[str, str]]:
        """Returns every version's label and reference; none where the registry cannot be read."""
        try:
            return [(label_of(each), reference_of(each)) for each in self.bench.shelf.versions()]
        except BAD_INPUT:
            return []

    def pair(self) -> tuple[str | None, str | None]:
        """Returns the two versions that are compared first: the champion, and the one before it."""
        versions = [value for _, value in self.choices()]
        first = self.opened.first if self.opened.first in versions else next(iter(versions), None)
        others = [value for value in versions if value != first and _model(value) == _model(first or "")]
        return first, next(iter([*others, *[value for value in versions if value != first]]), None)

    @told(2)
    def gates(self, version: str | None) -> tuple[tuple[str, ...], bool]:
        """Returns a version's concepts, and whether they are switched one by one."""
        return (self.bench.concepts(version), self.bench.can_be_set(version)) if version else ((), False)

    @told(2)
    def draw(self, prompt: str, seed: float | None, setting: Setting) -> tuple[str, str]:
        """Returns pictures before and after, and which token opened which gate."""
        asked = Asked(prompt, _seed(seed))
        after = self.bench.draw([asked], setting)  # first: what is wrong with a version is told before time is spent
        before = self.bench.draw([asked], setting, erases=False)
        drawn = [("Before", before.pictures[0], before.seconds), ("After", after.pictures[0], after.seconds)]
        return shown.pictures(drawn, prompt), shown.heat(self.bench.heat(prompt, setting))

    @told(2)
    def gallery(
        self, role: str, seed: float | None, setting: Setting, progress: Any
    ) -> tuple[list[tuple[Any, str]], list[str]]:
        """Returns pictures of a list's prompts, before beside after, and the prompts."""
        if setting.version is None:
            raise ValueError(NOTHING)
        taken = self.bench.shelf.take(setting.version)
        erased = tuple(dict.fromkeys(taken.erased.concepts))
        asked, _ = prompts_of(taken.concepts, erased, "kept" if role == "kept" else "erased", _seed(seed))
        if not asked:
            raise ValueError(f"nothing kept is known of {setting.version}: there is no list of its name here")
        pairs = draw_pairs(self.bench, asked, setting, progress)
        return [(side_by_side(pair), pair.asked.prompt) for pair in pairs], [each.prompt for each in asked]

    @told(2)
    def compare(self, prompt: str, seed: float | None, one: str | None, other: str | None) -> tuple[str, str]:
        """Returns one prompt's pictures by two versions, and their gates and metrics side by side."""
        if not one or not other:
            raise ValueError("choose two versions" if self.choices() else NOTHING)
        asked = Asked(prompt, _seed(seed))
        by_each = [(each, self.bench.draw([asked], Setting(each))) for each in (one, other)]
        before = self.bench.draw([asked], Setting(one), erases=False)
        drawn = [(name, each.pictures[0], each.seconds) for name, each in (("Before", before), *by_each)]
        return shown.pictures(drawn, prompt), shown.tables(compared(self.places, one, other))

    @told(2)
    def batch(self, file: str | None, setting: Setting, progress: Any) -> tuple[list[tuple[Any, str]], str]:
        """Returns the pictures of a CSV file's prompts, and the path of an archive of them."""
        if not file:
            raise ValueError("choose a CSV file first: a column prompt, and perhaps a column seed")
        pairs = list(draw_pairs(self.bench, read_rows(Path(file)), setting, progress))
        archive = Path(mkdtemp(dir=self.scratch)) / "pictures.zip"
        archive.write_bytes(packed(pairs, setting))
        return [(side_by_side(pair), f"{pair.asked.prompt} · seed {pair.asked.seed}") for pair in pairs], str(archive)

    def lists(self) -> list[str]:
        """Returns the lists that have versions; none where the registry cannot be read."""
        try:
            return lists_with_results(self.bench.shelf)
        except BAD_INPUT:
            return []

    @told(1)
    def results(self, name: str | None) -> tuple[str]:
        """Returns a list's results, bars, attacks and history."""
        if not name:
            raise ValueError(NOTHING)
        return (shown.tables(tables_of(self.places, name)),)

    @told(1)
    def promote(self, version: str | None, typed: str, reason: str) -> tuple[str]:
        """Makes a version champion, if its name was typed."""
        return (promote(self.places, _chosen(version), typed, reason),)

    @told(1)
    def take_back(self, version: str | None, typed: str, reason: str) -> tuple[str]:
        """Makes the champion before champion again, if the model's name was typed."""
        return (take_back(self.places, _model(_chosen(version)), typed, reason),)


def setting_of(version: str | None, on: Sequence[str], known: Sequence[str], strengths: dict[str, float]) -> Setting:
    """Returns how a visitor set a version's gates; what was set for another version's does not count."""
    off = tuple(name for name in known if name not in on)
    set_ = {name: value for name, value in strengths.items() if name in known and name in on and value != 1}
    return Setting(version or None, off, set_)


def _chosen(version: str | None) -> str:
    if not version:
        raise ValueError(NOTHING)
    return version


def _model(reference: str) -> str:
    return reference.rpartition("/")[0]


def _seed(given: float | None) -> int:
    if given is None or given != int(given):
        raise ValueError(f"a seed is a whole number from 0, got {given}")
    return int(given)


def list_of(reference: str | None) -> str | None:
    """Returns the name of the list that a version was made from."""
    return _model(reference).removeprefix(MODEL_PREFIX) if reference else None
