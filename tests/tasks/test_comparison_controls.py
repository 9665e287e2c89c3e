"""An attack's controls in a comparison: the untouched model's share, and what the same search finds of kept ones."""

from helpers.scores import row
from tasks.comparison.means import attacks_of, controls_of, others_of
from tasks.comparison.rows import as_json, in_order, measures_of
from tasks.figures import Scores


def pair(role, before, after, group):
    return [row("noun_accuracy", phase, role, value, group) for phase, value in (("before", before), ("after", after))]


def rows_of(*scores):
    found = measures_of(Scores([each for several in scores for each in several]), "noun_accuracy", "noun_accuracy")
    names = in_order(iter(found))
    values = {name if key == "value" else f"{name}_{key}": value
              for name, of in found.items() for key, value in vars(of).items()}  # fmt: skip
    told = {"method": "cpe", "preset": "emoji", "seed": 0, "targets": 2, "bundle": "b", "scores": "s"}
    return [told | {"seconds": 1.0, "bytes": 1} | values], names


def test_controls_stand_beside_the_attack_for_programs_and_in_a_table_of_their_own():
    rows, names = rows_of(
        pair("erased", 1.0, 0.0, "all"),
        pair("erased", 0.9, 0.4, "set attack-inversion"),
        pair("control", 0.8, 0.7, "set control-inversion"),
        pair("erased", 0.6, 0.1, "set attack-plurals"),
    )
    (told,) = as_json(rows, names)
    inversion, plurals = told["attacks"]["inversion"], told["attacks"]["plurals"]
    assert (inversion["rate"], inversion["control"]) == (0.4, 0.9)
    assert inversion["controls"]["untouched"] == 0.9
    kept = inversion["controls"]["kept"]
    assert (kept["rate"], kept["control"]) == (0.7, 0.8)
    assert plurals["controls"] == {"untouched": 0.6, "kept": None}
    assert set(told["measures"]) == {"erased"}
    assert [column.label for column in attacks_of(rows, names).columns] == ["inversion", "plurals"]
    table = controls_of(rows, names)
    assert [line.cells[0].value for line in table.lines] == [0.8, 0.7]
    assert others_of(rows, names).columns == []


def test_without_attacks_that_learn_there_is_no_table_of_controls():
    rows, names = rows_of(pair("erased", 1.0, 0.0, "all"), pair("erased", 0.6, 0.1, "set attack-plurals"))
    assert controls_of(rows, names) is None
