"""SPEED: its constrained problem's own conditions, and the published formula written out in float64."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from cpe import Erased
from cpe.methods.base import method_of
from cpe.methods.lessons import Bench, Encoded, Lesson, Prompt
from cpe.methods.speed.config import SpeedConfig
from cpe.methods.speed.edit import anchor_moment, correlations, deltas, first_edit, free_directions, invariants, solve
from cpe.methods.weights import LayerEdit
from cpe.models.sites import find_projections
from helpers.tiny import TEXT_WIDTH, tiny_pipeline

BEFORE = ("a", "one")
CAT, THING = (tuple(Prompt(f"{before} {name}", name) for before in BEFORE) for name in ("cat", "thing"))
ANCHORS = tuple(Prompt(f"{before} {name}", name) for name in ("dog", "owl", "rose") for before in BEFORE)
LESSON = Lesson("cat", CAT, THING, ANCHORS, seed=3)
TEXTS = ["", *LESSON.texts]
DOUBLE = {"dtype": torch.float64}
WIDTH = 24


def encoded(width=WIDTH, tokens=6):
    table = torch.randn(len(TEXTS), tokens, width, generator=torch.Generator().manual_seed(0)).half()
    return Encoded({text: row for row, text in enumerate(TEXTS)}, table)


def place(prompt):
    return 2


def problem(outputs=10, concepts=5, directions=9):
    """A matrix, concepts' tokens, what they turn into, orthonormal directions that anchors leave, invariant tokens."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, **DOUBLE)  # noqa: E731
    null = torch.linalg.qr(draw(WIDTH, directions)).Q
    return draw(outputs, WIDTH), draw(concepts, WIDTH), draw(concepts, WIDTH), null, draw(4, WIDTH)


def moment_of(null):
    """Anchors that are in every direction but those."""
    return torch.eye(WIDTH, **DOUBLE) - null @ null.T


def test_the_edit_is_the_least_of_its_aim_among_those_that_change_nothing_kept():
    matrix, concept, surrogate, null, still = problem()
    ridge = 0.3
    own, other = correlations([(concept, surrogate)])
    free = free_directions(moment_of(null), still, 0.5)
    delta = solve(matrix, own, other, free, ridge)
    assert delta.norm() > 0.01 * matrix.norm(), "it changes something"
    assert (delta @ still.T).abs().max() < 1e-12, "not the invariant tokens"
    assert (delta @ moment_of(null)).abs().max() < 1e-12, "nor the anchors"

    def aim(change):
        return ((matrix + change) @ concept.T - matrix @ surrogate.T).square().sum() / len(concept) + (
            ridge * change.square().sum()
        )

    change = delta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(aim(change), change)
    allowed = null @ (torch.eye(9, **DOUBLE) - (within := null.T @ still.T) @ torch.linalg.pinv(within))
    assert gradient.norm() > 1e-3, "the conditions bind"
    assert (gradient @ allowed).abs().max() < 1e-12, "no allowed direction makes it less"


def test_it_is_the_published_formula():
    matrix, concept, surrogate, null, still = problem()
    own, other = correlations([(concept, surrogate)])
    projector, eye, keys = null @ null.T, torch.eye(WIDTH, **DOUBLE), still.T
    inverse = torch.linalg.inv(own @ projector + 0.3 * eye)
    middle = torch.linalg.inv(keys.T @ projector @ inverse @ keys)
    held = eye - inverse @ keys @ middle @ keys.T @ projector
    published = matrix @ (other - own) @ projector @ held @ inverse
    found = solve(matrix, own, other, free_directions(moment_of(null), still, 0.5), 0.3)
    torch.testing.assert_close(found, published, rtol=1e-9, atol=1e-11)
    first = matrix @ (other - own) @ torch.linalg.inv(eye + own)
    torch.testing.assert_close(first_edit(matrix, own, other), first, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("filtered", [True, False])
def test_the_anchors_moment_is_that_of_anchors_and_copies_made_one_by_one(filtered):
    matrix, concept, surrogate, _, _ = problem()
    anchors = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(5)).half()
    config = SpeedConfig(filtered=filtered, copies=4)
    first = first_edit(matrix, *correlations([(concept, surrogate)]))
    found = anchor_moment(anchors, matrix, first, config, torch.Generator().manual_seed(6))
    weakest, mean = (
        torch.linalg.svd(matrix, full_matrices=False).Vh[-1],
        (anchors.double() @ first.T).norm(dim=1).mean(),
    )
    used = [row for row in anchors.double() if not filtered or (first @ row).norm() > mean]
    steps = torch.randn(len(used), 4, generator=torch.Generator().manual_seed(6), **DOUBLE)
    copies = [row + step * weakest for row, own in zip(used, steps, strict=True) for step in own]
    held = used + [copy for copy in copies if not filtered or (first @ copy).norm() > mean]
    assert (len(held) < 100) == filtered
    torch.testing.assert_close(found, torch.stack(held).T @ torch.stack(held) / len(held))


def test_invariants_are_the_start_token_and_centers_that_are_means_of_what_is_nearest():
    generator = torch.Generator().manual_seed(2)
    groups = torch.tensor([[0.0, 0, 0], [20, 0, 0], [0, 20, 0]], **DOUBLE)
    others = (groups[:, None] + torch.randn(3, 8, 3, generator=generator, **DOUBLE)).reshape(24, 3)
    found = invariants(
        torch.cat([torch.full((1, 3), 7.0, **DOUBLE), others[torch.randperm(24, generator=generator)]]), 3
    )
    assert torch.equal(found[0], torch.full((3,), 7.0, **DOUBLE))
    wanted = others.reshape(3, 8, 3).mean(1)
    torch.testing.assert_close(sorted(found[1:].tolist()), sorted(wanted.tolist()))
    assert len(invariants(torch.zeros(9, 3, **DOUBLE), 3)) == 1 + 3, "also where all tokens are alike"


def edit_of(lessons, config, texts=None):
    matrix = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(4))
    return deltas(lessons, texts or encoded(), place, config, {"one.to_v": matrix, "two.to_v": 2 * matrix})


def test_concepts_that_stay_as_they_are_and_anchors_everywhere_leave_the_matrices_alone():
    same = Lesson("cat", CAT, CAT, ANCHORS, seed=0)
    assert all(delta.abs().max() < 1e-5 for delta in edit_of([same], SpeedConfig(threshold=0.5)).values())
    assert not any(delta.any() for delta in edit_of([LESSON], SpeedConfig(threshold=1e-9, filtered=False)).values())


@pytest.mark.parametrize("tokens", ["last", "tail"])
def test_kept_tokens_stay_where_a_concept_moves(tokens):
    texts = encoded()
    config = SpeedConfig(tokens=tokens, threshold=1e-6, copies=0, ridge=1e-3, filtered=False)
    few = Lesson("cat", CAT, THING, ANCHORS[:1], seed=0)
    for delta in edit_of([few], config, texts).values():
        moved = {text: (texts.of([text])[0, 2:3] @ delta.T).norm().item() for text in ("a cat", ANCHORS[0].text)}
        assert moved[ANCHORS[0].text] < 1e-4 < 1 < moved["a cat"]
        assert (texts.empty[:1] @ delta.T).abs().max() < 1e-4, "the start token"


def test_the_edit_depends_on_the_seed_alone():
    digest = lambda lesson: hashlib.sha256(  # noqa: E731
        b"".join(delta.numpy().tobytes() for delta in edit_of([lesson], SpeedConfig(threshold=0.5)).values())
    ).hexdigest()
    turned = Lesson("cat", CAT, THING, ANCHORS[::-1], seed=3)
    assert digest(LESSON) == digest(turned)
    assert digest(LESSON) != digest(Lesson("cat", CAT, THING, ANCHORS, seed=4))


def test_it_trains_on_a_pipeline_and_is_loaded_by_its_file(tmp_path):
    method, pipe = method_of("speed"), tiny_pipeline()
    texts, bench = encoded(TEXT_WIDTH, tokens=77), Bench(tmp_path, tmp_path / "checkpoint")
    for preset, parts in (("emoji", {"to_k", "to_v"}), ("published", {"to_v"})):
        config = method.config(preset, {"threshold": 5.0})
        (piece,) = method.train([LESSON], texts, pipe, config, bench)
        assert {name.rpartition(".")[2] for name in piece.tensors} == parts
        assert sum(4 * delta.numel() for delta in piece.tensors.values()) == method.size(pipe, config, 1)
        save_file(dict(piece.tensors), tmp_path / method.file_name, dict(piece.metadata))
        erased = Erased.load(tmp_path)
        assert isinstance(erased, LayerEdit)
        assert erased.concepts == ("cat",)
        path, delta = next(iter(erased.deltas.items()))
        before = find_projections(pipe.unet)[path].weight.detach().clone()
        with erased.attached(pipe):
            assert torch.equal(find_projections(pipe.unet)[path].weight, before + delta)
        assert torch.equal(find_projections(pipe.unet)[path].weight, before)
    with pytest.raises(ValueError, match="leave no direction free"):
        method.train([LESSON], texts, pipe, method.config("emoji", {"threshold": 1e-9}), bench)
    assert method.seconds(pipe, texts.table, method.config("emoji"), 2, tmp_path) > 0
