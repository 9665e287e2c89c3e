"""Lists made ready."""

import yaml

from tasks.prepare import prepare_concepts

LIST = {
    "name": "few",
    "domain": "noun",
    "base_model": "embedded",
    "profile": "embedded",
    "surrogate": "object",
    "targets": ["rose", {"name": "pizza", "aliases": ["pie"]}],
    "kept": ["cat"],
    "templates": ["a {}", "a picture of a {}"],
    "anchors": {"general": ["animal", "tree"], "pool": ["dog", "lion", "tulip", "taco"], "neighbors": 2},
    "training": {"preset": "emoji"},
    "evaluation": {"as_published": True, "templates": ["a {}"]},
}


def plan_of(places, **changes):
    path = places.work.parent / "list.yaml"
    path.write_text(yaml.safe_dump({**LIST, **changes}))
    return prepare_concepts(places, str(path))
