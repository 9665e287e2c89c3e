"""Small lists on the embedded model."""

LIST = {
    "name": "few",
    "domain": "noun",
    "base_model": "embedded",
    "profile": "embedded",
    "surrogate": "object",
    "targets": ["rose", "pizza"],
    "kept": ["cat", "castle"],
    "templates": ["a {}", "a picture of a {}", "a drawing of a {}", "a {} in the style of noto"],
    "anchors": {
        "general": ["animal", "tree", "table", "food", "tool", "building", "color", "shape"],
        "pool": ["dog", "lion", "tulip", "taco", "guitar", "bus", "owl", "rocket"],
        "neighbors": 6,
    },
    "training": {
        "preset": "emoji",
        "changes": {"stages": 2, "first_steps": 250, "later_steps": 60, "adversary_steps": 20, "copies": 2},
    },
    "evaluation": {"as_published": True, "templates": ["a picture of a {}", "a {} in the style of noto"], "seeds": 2},
    "bars": {"erased_accuracy_at_most": 0.25, "kept_ratio_at_least": 0.75, "least_pictures": 8},
}
LITTLE = {
    **LIST,
    "name": "little",
    "targets": ["rose", "pizza", "snake"],
    "evaluation": {"as_published": True, "templates": ["a picture of a {}"], "seeds": 2},
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 80}},
    "bars": {"erased_accuracy_at_most": 1.0, "least_pictures": 1},
}
