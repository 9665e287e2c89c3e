"""A list that takes a worker seconds."""

from helpers.deployment import prefect as prefect
from helpers.lists import LIST

LITTLE = {
    **LIST,
    "name": "little",
    "targets": ["rose", "pizza", "snake"],
    "evaluation": {"templates": ["a picture of a {}"], "seeds": 2},
    "training": {"preset": "emoji", "changes": {"stages": 1, "first_steps": 80}},
    "bars": {"erased_accuracy_at_most": 1.0, "least_pictures": 1},
}
