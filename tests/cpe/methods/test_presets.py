"""Published presets say what was published, number by number; settings that came later leave hashes as they were."""

import pytest

from artifacts.hashing import content_hash
from cpe.lists.reading import load_list
from cpe.methods.pinpoint.config import PRESETS
from helpers.places import LISTS

PUBLISHED = ("celebrity", "artist", "explicit")
# Sources, in the released code (Hyun1A/CPE, commit 4d35d02): C is configs/train_<celeb, artist, explicit>/config.yaml,
# P prompt.yaml beside it, S shell_scripts/<…>/train_<…>_cpe_single.sh, whose arguments go before C.
TABLE = {
    "gate.gate_rank": (16, 16, 64, "C network.init_size, S GATE_RANK"),
    "gate.adapter_rank": (1, 1, 4, "C network.rank"),
    "gate.alpha": (1.0, 1.0, 1.0, "C network.alpha"),
    "gate.tied_qk": (True, True, True, "src/models/cpe_resag.py: keys take the queries' matrix"),
    "stages": (5, 10, 20, "C train.num_stages"),
    "first_steps": (1800, 1800, 2400, "C train.iterations × factor_init_iter: 450 × 4, 450 × 4, 1200 × 2"),
    "later_steps": (450, 450, 1200, "C train.iterations"),
    "first_rate": (3e-4, 3e-4, 3e-4, "C train.lr × factor_init_lr: 0.00003 × 10"),
    "later_rate": (3e-5, 3e-5, 3e-5, "C train.lr"),
    "adversary_steps": (450, 450, 1200, "C train.iterations_adv"),
    "adversary_rate": (0.01, 0.01, 0.01, "C train.lr_adv"),
    "copies": (16, 16, 32, "C train.num_add_prompts"),
    "targets_per_step": (1, 1, 1, "P batch_size, and one prompt a step in src/engine/trainer.py"),
    "anchors_per_step": (32, 16, 16, "P sampling_batch_size"),
    "anchor_noise": (0.001, 0.001, 0.001, "S NOISE; src/engine/sampling.py holds the same number"),
    "anchor_noise_over": ("prompt", "prompt", "prompt", "src/engine/sampling.py: embs.view(D, -1).norm(2, dim=1)"),
    "way_anchors": (0, 0, 0, "beyond the paper: its anchors mix with each other alone"),
    "way_share": (0.4, 0.4, 0.4, "of no effect without way_anchors"),
    "strength": (0.3, 0.5, 3.0, "P guidance_scale, S GUIDE"),
    "anchor_weight": (1e5, 1e4, 1e4, "S PAL"),
    "warmup_steps": (5, 5, 10, "C train.lr_warmup_steps"),
    "adversary_warmup_steps": (5, 5, 5, "C train.lr_warmup_steps_adv"),
    "weight_decay": (0.01, 0.01, 0.01, "C train.optimizer_type: AdamW8bit, whose default it is in bitsandbytes"),
    "replay": (0, 0, 0, "only the last search's prompts are in forward_eval of src/models/cpe_adv_memory.py"),
    "gradient_clip": (None, None, None, "src/configs/config.py max_grad_norm: 0, which clips nothing"),
    "plateau": (0.0, 0.0, 0.0, "every stage runs"),
}
# P neutral
SURROGATES = {"celebs": "a person", "artists": "real photograph", "explicit": "a person in modest clothing"}


def settings_of(preset: str) -> dict:
    config = PRESETS[preset]
    values = {name: getattr(config, name) for name in type(config).model_fields if name != "gate"}
    if values["adversary_warmup_steps"] is None:
        values["adversary_warmup_steps"] = values["warmup_steps"]
    return values | {f"gate.{name}": getattr(config.gate, name) for name in type(config.gate).model_fields}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_every_number_of_a_published_preset_is_the_published_one(preset):
    assert settings_of(preset) == {name: row[PUBLISHED.index(preset)] for name, row in TABLE.items()}


@pytest.mark.parametrize("name", SURROGATES)
def test_published_lists_use_the_published_presets_unchanged(name):
    concept_list = load_list(LISTS / f"{name}.yaml")
    assert concept_list.surrogate == SURROGATES[name]
    assert concept_list.training_config == PRESETS[{"celebs": "celebrity", "artists": "artist"}.get(name, name)]


# What these hashes were before the first setting came that is `added_later`; they are in registries and stores.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("emoji", "78a1d6f6fb050464237a2a7940ee560819bb43568be1927fd267ed72ff776332"),
        ("emoji-styles", "6332627a2cc899bf7ec177734bd929b413d964029940f4a93f775763d3d72264"),
    ],
)
def test_the_hash_of_a_list_that_uses_no_later_setting_stays(name, expected):
    concept_list = load_list(LISTS / f"{name}.yaml")
    assert concept_list.content_hash == expected
    stricter = concept_list.bars.model_copy(update={"least_pictures": 200})
    assert concept_list.model_copy(update={"bars": stricter}).content_hash != expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("emoji", "e77f812784bc84eb6c6c456c91049898d12726e788c6dddc5b6861e670f66c1b"),
        ("emoji-style", "874857890b5ec10f1e3be7bcf65090353355b6503be46c18384d50f7276b948d"),
    ],
)
def test_settings_in_the_address_of_a_gate_that_uses_no_later_setting_stay(preset, expected):
    config = PRESETS[preset]
    assert content_hash(config.model_dump()) == expected
    for later, value in {"weight_decay": 0.01, "anchor_noise_over": "prompt", "adversary_warmup_steps": 5}.items():
        assert content_hash(config.model_copy(update={later: value}).model_dump()) != expected, later
