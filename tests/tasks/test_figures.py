"""A run's figures in words, and whether they reach the list's bars."""

import pytest

from helpers.scores import plan, row
from tasks.figures import Scores, figures
from tasks.promotion.bars import judge


def pair(metric, role, before, after, group="all", unit="share"):
    return [row(metric, "before", role, before, group, unit), row(metric, "after", role, after, group, unit)]


def values(bars):
    return {bar.name.split(",")[0]: (bar.value, bar.holds) for bar in bars}


def test_bars_of_accuracy_hold_or_not_by_what_was_measured():
    scores = Scores([*pair("noun_accuracy", "erased", 1.0, 0.04), *pair("noun_accuracy", "kept", 0.9, 0.81),
                     row("h0", "after", "all", 0.95)])  # fmt: skip
    asked = plan("noun", erased_accuracy_at_most=0.03, kept_ratio_at_least=0.9, h0_at_least=0.96)
    assert values(judge(asked, scores)) == {
        "accuracy on erased concepts": (0.04, False),
        "accuracy on kept concepts": (pytest.approx(0.9), True),
        "H0": (0.95, False),
    }


def test_a_bar_measured_on_too_few_pictures_does_not_hold_and_says_why():
    few = row("noun_accuracy", "after", "erased", 0.0, count=6)
    asked = plan("noun", erased_accuracy_at_most=0.03)
    (bar,) = judge(asked, Scores([few]))
    assert (bar.value, bar.holds) == (0.0, False)
    assert "accuracy on erased concepts 0.0 % (at most 3.0 %; measured on 6 pictures" in bar.words
    assert "bars.least_pictures asks for 100" in bar.words
    assert judge(plan("noun", erased_accuracy_at_most=0.03, least_pictures=6), Scores([few]))[0].holds
    assert judge(asked, Scores([{**few, "count": 100}]))[0].holds


def test_any_score_can_be_a_bar_by_its_name():
    """Over concepts of a role, as it is or as a share of what it was, in the score's own unit."""
    scores = Scores(
        [
            row("kept_psnr", "after", "kept", 21.5, unit="dB"),
            row("clip_score", "before", "kept", 20.0, unit="points"),
            row("clip_score", "after", "kept", 19.0, unit="points"),
            row("noun_accuracy", "after", "erased", 0.02, count=12),
        ]
    )
    asked = plan(
        "noun",
        least_pictures=20,
        kept_kept_psnr_at_least=21.0,
        kept_clip_score_ratio_at_least=0.96,
        erased_noun_accuracy_at_most=0.05,
        kept_fid_at_most=3.0,
    )
    told = {bar.words: bar.holds for bar in judge(asked, scores)}
    assert told == {
        "kept psnr on kept concepts 21.50 (at least 21.00)": True,
        "clip score on kept concepts, of what it was 95.0 % (at least 96.0 %)": False,
        "noun accuracy on erased concepts 2.0 % (at most 5.0 %; measured on 12 pictures, bars.least_pictures asks for "
        "20: evaluate more seeds, or set it lower)": False,
        "fid on kept concepts not measured (at most 3.00)": False,
    }


def test_h0_needs_enough_pictures_of_both_roles():
    def judged(erased, kept):
        rows = [row("noun_accuracy", "after", "erased", 0.0, count=erased), row("h0", "after", "all", 1.0),
                row("noun_accuracy", "after", "kept", 1.0, count=kept)]  # fmt: skip
        return judge(plan("noun", h0_at_least=0.9), Scores(rows))[0].holds

    assert [judged(100, 100), judged(99, 1000), judged(1000, 99)] == [True, False, False]


def test_what_was_not_measured_does_not_hold():
    (bar,) = judge(plan("celebrity", erased_accuracy_at_most=1.0), Scores([]))
    assert (bar.value, bar.holds) == (None, False)
    assert judge(plan("celebrity"), Scores([])) == []


def test_artists_are_judged_by_clip_and_where_none_are_kept_by_the_worst_other_set():
    scores = Scores([*pair("clip_score", "erased", 30.0, 21.0), *pair("clip_score", "kept", 30.0, 30.0),
                     *pair("clip_score", "kept", 30.0, 27.0, "set coco")])  # fmt: skip
    asked = {"erased_clip_ratio_at_most": 0.8, "kept_clip_ratio_at_least": 0.97}
    assert values(judge(plan("artist", **asked), scores)) == {
        "CLIP score on erased concepts": (pytest.approx(0.7), True),
        "CLIP score on kept concepts": (1.0, True),
    }
    others = Scores([r for r in scores.rows if r["role"] == "erased" or r["group"] != "all"])
    assert values(judge(plan("explicit", kept=False, **asked), others))["CLIP score on kept concepts"] == (0.9, False)


def test_nudity_is_judged_over_the_lists_own_prompts_and_i2p_together():
    found = pair("nudity_detections", "erased", 60, 6) + pair("nudity_detections", "erased", 40, 9, "set i2p")
    scores = Scores(found + pair("nudity_detections", "kept", 5, 5, "set coco"))
    (bar,) = judge(plan("explicit", kept=False, nudity_ratio_at_most=0.1), scores)
    assert (bar.value, bar.holds) == (0.15, False)


def test_figures_are_what_was_measured_and_name_set_model_and_features():
    scores = Scores(
        [
            *pair("celebrity_accuracy", "erased", 0.9, 0.01),
            *pair("clip_score", "kept", 30.0, 29.0, unit="points"),
            *pair("clip_score", "kept", 31.0, 30.0, "set coco", "points"),
            row("fid", "after", "kept", 4.0, "set coco"),
            *pair("fid_reference", "kept", 20.0, 21.0, "set coco"),
        ]
    )
    shown = {figure.label: (figure.change.before, figure.change.after) for figure in figures(plan("celebrity"), scores)}
    assert shown == {
        "Accuracy on erased concepts": (0.9, 0.01),
        "CLIP score (clip-vit-base-patch32), kept concepts": (30.0, 29.0),
        "CLIP score (clip-vit-base-patch32), set coco": (31.0, 30.0),
        "FID over Inception's features, before to after, set coco": (None, 4.0),
        "FID to real pictures, set coco": (20.0, 21.0),
    }


def test_the_figures_that_answer_the_question_are_marked_whatever_the_domain():
    for domain, scores in (
        ("celebrity", pair("celebrity_accuracy", "erased", 0.9, 0.0) + pair("celebrity_accuracy", "kept", 0.9, 0.9)),
        ("artist", pair("clip_score", "erased", 30.0, 20.0) + pair("clip_score", "kept", 30.0, 30.0)),
        ("explicit", pair("nudity_detections", "erased", 60, 6)),
    ):
        answers = [figure.answers for figure in figures(plan(domain), Scores(scores)) if figure.answers]
        assert answers == (["erased"] if domain == "explicit" else ["erased", "kept"]), domain
