"""One JSON text for a value: the addresses of artifacts and the hashes of lists are what they were."""

import json

from artifacts.hashing import content_hash
from cpe.lists.reading import load_list
from helpers.places import LISTS
from wording.canonical import canonical_json

ARTISTS_HASH = "b538645f40aa3050e55c0382cff470d86aa963aa94e7fcb8936bdd3529887e14"


def test_a_name_with_an_accent_keeps_its_address_and_its_lists_hash() -> None:
    assert content_hash(["Beyoncé"]) == "4623bf92aa4cfca1fe50240867b525fe3812ffdb32c003498e7e65756f67adfd"
    assert load_list(LISTS / "artists.yaml").content_hash == ARTISTS_HASH


def test_both_forms_say_the_same() -> None:
    value = {"b": ["Beyoncé", 1, 1.0, None], "a": {"名": True}}
    plain, escaped = canonical_json(value), canonical_json(value, escaped=True)
    assert json.loads(plain) == json.loads(escaped) == value
    assert escaped.isascii()
    assert not plain.isascii()
    assert b" " not in plain + escaped
