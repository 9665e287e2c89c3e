"""Statistics of reference pictures, the distances from them, and the folders they come from."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from cpe.metrics.frechet import frechet_distance, frechet_distance_to, kernel_distance
from cpe.metrics.reference import (
    ROWS_AT_ONCE,
    Statistics,
    folder_pictures,
    load_statistics,
    save_statistics,
    statistics_of,
)

SHARED = np.random.default_rng(0).normal(size=(64, 64)) / 8  # what mixes the features of every set


def features(seed: int, count: int, width: int = 24, *, decades: float = 3) -> np.ndarray:
    """Returns features as Inception's are: none negative, in steps of several decades."""
    rng = np.random.default_rng(seed)
    sizes = 10 ** (-decades * np.arange(width) / width)
    drawn = rng.normal(size=(count, width)) * sizes @ SHARED[:width, :width]
    return np.maximum(drawn + 0.02 * rng.normal(size=width), 0)


def parts(matrix: np.ndarray, *sizes: int) -> Iterator[np.ndarray]:
    yield from np.split(matrix, np.cumsum(sizes))


def test_statistics_are_numpys_mean_and_covariance_and_forget_no_digit_far_from_zero() -> None:
    near = features(0, 1300, 7)
    far = near + 2.0**20  # where sums of squares would lose 40 bits; adding a power of two loses none of the means'
    statistics = statistics_of(parts(far, 5, 600, 1, 511))
    exact = far - 2.0**20
    np.testing.assert_allclose(statistics.mean - 2.0**20, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(statistics.covariance, np.cov(exact, rowvar=False), rtol=1e-6, atol=1e-9)
    assert statistics.count == 1300
    assert statistics.mean.dtype == statistics.covariance.dtype == np.float64


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 1100), min_size=1, max_size=6))
def test_statistics_are_the_same_bits_however_features_come(sizes: list[int]) -> None:
    matrix = features(0, max(sum(sizes), 2), 5)
    whole, cut = statistics_of(matrix), statistics_of(part for part in parts(matrix, *sizes) if len(part))
    np.testing.assert_array_equal(whole.mean, cut.mean)
    np.testing.assert_array_equal(whole.covariance, cut.covariance)
    np.testing.assert_array_equal(cut.covariance, cut.covariance.T)
    np.testing.assert_allclose(cut.covariance, np.cov(matrix, rowvar=False), rtol=1e-10, atol=1e-14)


def test_statistics_hold_one_block_of_features_at_a_time() -> None:
    tracemalloc.start()
    try:
        count = statistics_of(np.full((100, 64), float(index)) for index in range(300)).count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 12 * ROWS_AT_ONCE * 64 * 8, "all of them are five times as much"


def test_statistics_of_tensors_are_summed_in_float64() -> None:
    matrix = torch.from_numpy(features(0, 40)).float()
    statistics = statistics_of([matrix[:11], matrix[11:]])
    np.testing.assert_allclose(statistics.covariance, np.cov(matrix.double().numpy(), rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("decades", [0, 3, 9])
@pytest.mark.parametrize("counts", [(90, 70), (9, 70), (70, 9), (9, 8)])
def test_the_distance_from_statistics_is_that_from_the_reference_pictures(
    counts: tuple[int, int], decades: float
) -> None:
    a, b = (features(seed, count, decades=decades) for seed, count in enumerate(counts))
    score = frechet_distance_to(statistics_of([a]), b, name="fid")
    assert score.value == pytest.approx(frechet_distance(a, b).value, rel=1e-9)
    assert (score.name, score.low, score.high, score.count) == ("fid", None, None, min(counts))
    own = frechet_distance_to(statistics_of([a]), a)
    assert own.value <= 1e-12 * np.trace(np.cov(a, rowvar=False))
    assert own.unit == frechet_distance(a, b).unit


@pytest.mark.parametrize("width", [12, 64])
def test_fid_is_the_formula_with_scipys_matrix_root(width: int) -> None:
    a, b = features(0, 300, width), features(1, 250, width)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb)
    plain = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.trace(root).real
    assert frechet_distance(a, b).value == pytest.approx(plain, rel=1e-6)
    statistics = Statistics(a.mean(0), ca, None)
    assert frechet_distance_to(statistics, b).value == pytest.approx(plain, rel=1e-6)
    assert frechet_distance_to(statistics, b).count == 250


def test_kid_of_wide_features_is_a_double_loop_in_float64() -> None:
    a, b = features(0, 9, 64), features(1, 9, 64)
    kernel = lambda x, y: (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3  # noqa: E731
    within = [np.mean([kernel(x[i], x[j]) for i in range(9) for j in range(9) if i != j]) for x in (a, b)]
    plain = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b).value == pytest.approx(plain, rel=1e-9)


def test_statistics_come_back_as_they_were_kept(tmp_path: Path) -> None:
    for count in (40, None):
        kept = Statistics(*list(vars(statistics_of([features(0, 40)])).values())[:2], count)
        save_statistics(kept, tmp_path / "new" / "reference.safetensors")
        back = load_statistics(tmp_path / "new" / "reference.safetensors")
        np.testing.assert_array_equal(back.mean, kept.mean)
        np.testing.assert_array_equal(back.covariance, kept.covariance)
        assert back.count == count
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["reference.safetensors"]
    with pytest.raises(ValueError, match=r"must end in .safetensors, got a.npz"):
        save_statistics(kept, tmp_path / "a.npz")


def test_other_projects_statistics_are_read(tmp_path: Path) -> None:
    a, b = features(0, 60), features(1, 50)
    mean, covariance = np.mean(a, axis=0), np.cov(a, rowvar=False)
    np.savez(tmp_path / "clean_fid.npz", mu=mean, sigma=covariance)
    single = {"mu": mean.astype(np.float32), "sigma": covariance.astype(np.float32)}
    np.savez_compressed(tmp_path / "single.npz", **single, aside=np.array([None]))
    read = load_statistics(tmp_path / "clean_fid.npz")
    assert read.count is None
    assert frechet_distance_to(read, b).value == pytest.approx(frechet_distance(a, b).value, rel=1e-9)
    read = load_statistics(tmp_path / "single.npz")
    assert read.covariance.dtype == np.float64
    assert frechet_distance_to(read, b).value == pytest.approx(frechet_distance(a, b).value, rel=1e-3)


class Bomb:
    """An object whose reading runs code."""

    exploded = False

    def __reduce__(self) -> tuple:
        return (setattr, (Bomb, "exploded", True))


def test_what_are_no_statistics_is_said(tmp_path: Path) -> None:
    mean, covariance = np.zeros(3), np.eye(3)
    np.savez(tmp_path / "objects.npz", mu=np.array([Bomb()], dtype=object), sigma=covariance)
    np.savez(tmp_path / "features.npz", feats=np.ones((4, 3)))
    np.savez(tmp_path / "half.npz", mu=mean)
    np.savez(tmp_path / "shapes.npz", mu=mean, sigma=np.eye(4))
    np.savez(tmp_path / "infinite.npz", mu=mean, sigma=np.full((3, 3), np.inf))
    np.savez(tmp_path / "upper.npz", mu=mean, sigma=np.triu(np.ones((3, 3))))
    whole = (tmp_path / "half.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not found")
    np.save(tmp_path / "array.npy", mean)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    save_file({"mean": mean}, tmp_path / "mean.safetensors")
    for name, says in [
        ("objects.npz", "is damaged, or no file of statistics"),
        ("features.npz", "lacks 'mu'; give mean"),
        ("half.npz", "lacks 'sigma'"),
        ("shapes.npz", r"a mean \(D,\) and a covariance \(D, D\), got \(3,\), \(4, 4\)"),
        ("infinite.npz", "must hold finite numbers"),
        ("upper.npz", "its sigma is not symmetric"),
        ("cut.npz", "is damaged"),
        ("text.npz", "is damaged"),
        ("array.npy", "is damaged, or no file of statistics"),
        ("cut.safetensors", "is damaged"),
        ("mean.safetensors", "lacks 'covariance'"),
    ]:
        with pytest.raises(ValueError, match=says) as raised:
            load_statistics(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)
    assert not Bomb.exploded
    with pytest.raises(FileNotFoundError, match=r"no reference statistics .*nothing.npz"):
        load_statistics(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics_of([]), r"features needs at least 2 picture\(s\), got 0"),
        (lambda: statistics_of([np.ones((1, 3))]), r"features needs at least 2 picture\(s\), got 1"),
        (
            lambda: statistics_of([np.ones((2, 3)), np.ones((2, 4))]),
            "batches need the same features, got widths 3 and 4",
        ),
        (
            lambda: statistics_of([np.ones((ROWS_AT_ONCE, 3)), np.ones((2, 4))]),
            "batches need the same features, got widths 3 and 4",
        ),
        (lambda: statistics_of([np.ones((2, 3)), np.full((2, 3), np.nan)]), "features must be finite"),
        (lambda: frechet_distance_to(statistics_of(np.eye(3)), np.eye(4)), "the reference's width 3, got 4"),
        (lambda: frechet_distance_to(statistics_of(np.eye(3)), np.ones((1, 3))), r"features needs at least 2"),
        (
            lambda: frechet_distance_to(Statistics(np.zeros(2), np.diag([1.0, -0.1]), None), np.eye(2)),
            "no negative eigenvalue, got -0.1 beside 1",
        ),
    ],
)
def test_what_has_no_statistics_or_distance_is_said(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def drawn(colour: int) -> Image.Image:
    return Image.new("RGB", (8, 6), (colour, 0, 255 - colour))


def test_a_folder_gives_its_pictures_in_rgb_in_the_order_of_their_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    drawn(30).save(tmp_path / "c.PNG")
    drawn(10).save(tmp_path / "a" / "z.webp", lossless=True)
    drawn(20).save(tmp_path / "b.jpg", quality=100)
    drawn(50).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "d.png")
    drawn(40).save(tmp_path / "c.jpeg", quality=100)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._b.jpg").write_text("no picture either")
    (tmp_path / "folder.png").mkdir()
    pictures = list(folder_pictures(tmp_path))
    assert [picture.mode for picture in pictures] == ["RGB"] * 5
    reds = [int(np.asarray(picture)[0, 0, 0]) for picture in pictures]
    np.testing.assert_allclose(reds, [10, 20, 30, 40, 50], atol=3)  # JPEG rounds


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_pictures_of_either_depth_keep_their_shades(tmp_path: Path, depth: type) -> None:
    shades = np.arange(256).reshape(16, 16)
    Image.fromarray((shades * np.iinfo(depth).max // 255).astype(depth)).save(tmp_path / "grey.png")
    (picture,) = folder_pictures(tmp_path)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), np.stack([shades] * 3, axis=-1))


def test_unreadable_pictures_are_all_named_at_once_before_the_first_is_given(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for index in range(12):
        path = tmp_path / f"{index:02d}.{'png' if index % 2 else 'jpg'}"
        Image.fromarray(noise).save(path)
        if index < 11:
            whole = path.read_bytes()
            path.write_bytes(whole[: [0, 3, len(whole) // 2][index % 3]])
    with pytest.raises(ValueError, match=r"11 of 12 pictures cannot be read: 00.jpg, 01.png, .*, 09.png and 1 more"):
        folder_pictures(tmp_path)
    for path in sorted(tmp_path.iterdir())[1:11]:
        path.unlink()
    with pytest.raises(ValueError, match=r"1 of 2 pictures cannot be read: 00.jpg; fetch"):
        folder_pictures(tmp_path)
    (tmp_path / "00.jpg").unlink()
    assert len(list(folder_pictures(tmp_path))) == 1
    (tmp_path / "11.png").unlink()
    with pytest.raises(ValueError, match=r"has no pictures; put .png, .jpg, .jpeg, .webp"):
        folder_pictures(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of reference pictures"):
        folder_pictures(tmp_path / "nowhere")


def test_a_large_folder_does_not_keep_its_files_open(tmp_path: Path) -> None:
    import resource

    for index in range(120):
        drawn(index).save(tmp_path / f"{index:03d}.png")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 100), limits[1]))
    try:
        assert len(list(folder_pictures(tmp_path))) == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
