"""Inception features against torch-fidelity's, resizing against Pillow's filter written plainly, and the weights' file.

The released weights are not here: the network is tested with made-up ones that are the same on every machine.
`python tests/cpe/observers/test_inception.py`, where torch-fidelity 0.4.0 is installed, prints `GOLDEN` again.
"""

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from cpe.observers import inception
from cpe.observers.base import Missing
from cpe.observers.inception import WEIGHTS_NAME, InceptionObserver
from cpe.observers.inception_network import InceptionNetwork, network_of
from cpe.observers.resize import resized

SAMPLED = slice(None, None, 97)  # from every branch of the last block
# fmt: off
GOLDEN = [[ 6.73822,  0.88295, 10.66665,  0.1057 ,  0.37893,  0.84474,  2.87522,
   1.5268 ,  0.06393,  0.40158,  0.03131,  2.12988,  0.75979,  0.81719,
   0.86492,  0.104  ,  2.41025,  2.25885,  0.00594,  0.89553,  9.88283,
   0.     ],
 [ 6.71397,  0.87868, 10.58385,  0.11231,  0.37731,  0.80659,  2.88333,
   1.54521,  0.07064,  0.37068,  0.0304 ,  2.14266,  0.74039,  0.77667,
   0.86883,  0.1067 ,  2.46889,  2.23651,  0.00458,  0.88589,  9.8575 ,
   0.     ]]
# fmt: on


def made_up(name: str, *shape: int) -> np.ndarray:
    """Returns numbers in 0..1 that depend on nothing but the name: splitmix64 over integers, exact everywhere."""
    bits = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    bits = bits * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits >> np.uint64(40)) / 2.0**24).astype(np.float32).reshape(shape)


def made_up_weights() -> dict[str, Tensor]:
    """Returns weights under which signals neither die nor explode."""
    weights = {}
    for name, value in InceptionNetwork().state_dict().items():
        numbers = torch.from_numpy(made_up(name, *value.shape))
        if name.endswith("conv.weight"):
            weights[name] = (2 * numbers - 1) * (6 / value[0].numel()) ** 0.5
        elif name.endswith((".bn.weight", ".running_var")):
            weights[name] = 0.7 + 0.6 * numbers
        elif name.endswith((".bn.bias", ".running_mean")):
            weights[name] = 0.4 * numbers - 0.2
    return weights


def noise(name: str, *, width: int, height: int) -> Image.Image:
    pixels = 255 * made_up(name, height, width, 3) * np.linspace(0.2, 1, width)[:, None]
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return made_up_weights()


@pytest.fixture(scope="module")
def observer(weights: dict[str, Tensor]) -> InceptionObserver:
    return InceptionObserver(network_of(weights, "made up"))


PICTURES = [("one", 299, 299), ("other", 299, 299)]


def test_features_are_those_torch_fidelity_gives_under_the_same_weights(observer: InceptionObserver) -> None:
    seen = observer.look([noise(name, width=w, height=h) for name, w, h in PICTURES], ["", ""])
    assert list(seen) == ["inception"]
    assert (seen["inception"].shape, seen["inception"].dtype) == ((2, 2048), np.float32)
    # float32 through 94 layers: other processors' kernels round otherwise
    np.testing.assert_allclose(seen["inception"][:, SAMPLED], GOLDEN, rtol=1e-4, atol=1e-4)


def test_a_picture_has_the_same_features_whatever_it_is_shown_with(weights: dict[str, Tensor]) -> None:
    sizes = [(64, 64), (40, 90), (512, 300)]
    pictures = [noise(f"{width}", width=width, height=height) for width, height in sizes]
    observer = InceptionObserver(network_of(weights, "made up"), batch=2)
    together = observer.look(pictures, [""] * 3)["inception"]
    alone = np.concatenate([observer.look([picture], ["prompt"])["inception"] for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5 * alone.max())
    assert np.abs(alone[0] - alone[1]).max() > 0.01 * alone.max(), "pictures are told apart"
    assert observer.look([], [])["inception"].shape == (0, 2048)


def test_convolutions_are_never_rounded_to_tf32(weights: dict[str, Tensor]) -> None:
    observer = InceptionObserver(network_of(weights, "made up"))
    allowed = []
    observer.network.Mixed_7c.register_forward_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        observer.look([noise("one", width=8, height=8)], [""])
        assert (allowed, torch.backends.cudnn.allow_tf32) == ([False], True)
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_either_file_gives_the_same_observer_and_other_weights_another(
    weights: dict[str, Tensor], observer: InceptionObserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = {
        "fc.weight": torch.zeros(1008, 2048),
        "fc.bias": torch.zeros(1008),
        "AuxLogits.fc.bias": torch.ones(3),
    }
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in weights if "var" in name
    }
    torch.save(weights | classifier | counters, tmp_path / "weights.pth")
    save_file(weights, tmp_path / Path(WEIGHTS_NAME).with_suffix(".safetensors"))
    pictures = [noise("one", width=30, height=20)]
    expected = observer.look(pictures, [""])["inception"]
    for path in (tmp_path / "weights.pth", tmp_path):
        opened = InceptionObserver.open(path, device="cpu")
        assert opened.identity == observer.identity
        np.testing.assert_array_equal(opened.look(pictures, [""])["inception"], expected)
    assert not any(each.requires_grad for each in observer.network.parameters())
    name = "Mixed_7c.branch_pool.bn.running_mean"
    changed = InceptionObserver(network_of(weights | {name: weights[name] + 1e-3}, "changed"))
    assert changed.identity != observer.identity
    monkeypatch.setattr(inception, "VERSION", 2)
    assert InceptionObserver(network_of(weights, "made up")).identity != observer.identity


def test_a_missing_file_is_named_with_its_place_and_its_publisher(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, place in [
        (tmp_path / "folder", tmp_path / "folder" / WEIGHTS_NAME),
        (tmp_path / "nowhere", tmp_path / "nowhere" / WEIGHTS_NAME),
        (tmp_path / "a.safetensors", tmp_path / "a.safetensors"),
    ]:
        with pytest.raises(Missing) as missing:
            InceptionObserver.open(path)
        line = str(missing.value)
        assert line.endswith(f" at {place}")
        assert "\n" not in line
        for part in (WEIGHTS_NAME, "mseitzer/pytorch-fid", "fid_weights", ".safetensors"):
            assert part in line


class Bomb:
    """An object whose reading runs code."""

    exploded = False

    def __reduce__(self) -> tuple:
        return (setattr, (Bomb, "exploded", True))


def test_a_file_that_holds_more_than_tensors_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"Conv2d_1a_3x3.conv.weight": Bomb()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match=rf"{name} is damaged, or holds more than tensors"):
            InceptionObserver.open(tmp_path / name)
    assert not Bomb.exploded
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.exploded, "reading it would have run its code"


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(1000)}, tmp_path / "cut.pth")
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    save_file({"a": torch.zeros(100)}, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-8])
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / WEIGHTS_NAME)
    for name, says in [
        ("cut.pth", "is damaged"),
        ("empty.pth", "is damaged"),
        ("cut.safetensors", "is damaged or cut off"),
        ("list.pth", "must hold tensors by name, got list"),
        (WEIGHTS_NAME, "its sha256 begins [0-9a-f]{8}; fetch it again"),
    ]:
        with pytest.raises(ValueError, match=says) as raised:
            InceptionObserver.open(tmp_path / name)
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"Mixed_6a.branch3x3.conv.weight": None}, r"^the file lacks Mixed_6a.branch3x3.conv.weight and 0 more"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, r"^the file holds layer1.0.conv1.weight, which"),
        (
            {"Conv2d_3b_1x1.bn.bias": torch.zeros(79)},
            r"bn.bias must be floating point \(80,\), got torch.float32 \(79,\)",
        ),
        ({"Conv2d_3b_1x1.bn.bias": torch.zeros(80, dtype=torch.int64)}, r"got torch.int64 \(80,\)"),
        ({"fc.weight": torch.zeros(1000, 2048)}, "tells 1000 classes apart, not 1008"),
    ],
)
def test_weights_of_another_network_are_refused(weights: dict[str, Tensor], change: dict, says: str) -> None:
    given = {name: value for name, value in (weights | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        network_of(given, "the file")


def cubic(x: float) -> float:
    """The bicubic kernel of a = −½."""
    x = abs(x)
    return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def resizing_matrix(before: int, after: int) -> np.ndarray:
    """Returns the weight of each old pixel in each new one: the kernel, widened where the picture shrinks."""
    scale = before / after
    widened = max(scale, 1.0)
    matrix = np.zeros((after, before))
    for new in range(after):
        centre = (new + 0.5) * scale
        for old in range(int(max(centre - 2 * widened + 0.5, 0)), int(min(centre + 2 * widened + 0.5, before))):
            matrix[new, old] = cubic((old + 0.5 - centre) / widened)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (64, 100), (299, 450), (700, 31)])
def test_resizing_is_pillows_widened_bicubic_filter_in_floating_point(width: int, height: int) -> None:
    picture = noise("picture", width=width, height=height)
    pixels = np.asarray(picture).astype(np.float64)
    rows, columns = resizing_matrix(height, 299), resizing_matrix(width, 299)
    plain = np.einsum("ih,hwc,jw->cij", rows, pixels, columns, optimize=True)
    assert plain.min() < 0 or width > 299, "enlarging overshoots, so the cut is seen"
    found = resized([picture], 299)
    assert (found.shape, found.dtype) == ((1, 3, 299, 299), torch.float32)
    np.testing.assert_allclose(found[0].numpy(), plain.clip(0, 255), atol=1e-3)  # float32 between the two directions


def test_resizing_keeps_what_has_the_size_and_takes_pictures_that_are_not_rgb() -> None:
    picture = noise("picture", width=299, height=299)
    np.testing.assert_array_equal(resized([picture], 299)[0].permute(1, 2, 0).numpy(), np.asarray(picture))
    grey = picture.convert("L")
    both = resized([grey, picture.convert("RGBA")], 299)
    np.testing.assert_array_equal(both[0, 1].numpy(), np.asarray(grey))
    np.testing.assert_array_equal(both[1].permute(1, 2, 0).numpy(), np.asarray(picture))


def golden() -> np.ndarray:
    """Returns torch-fidelity's features of `PICTURES` under the made-up weights."""
    from tempfile import NamedTemporaryFile

    from torch_fidelity import FeatureExtractorInceptionV3

    with NamedTemporaryFile(suffix=".pth") as file:
        counters = {k: v for k, v in InceptionNetwork().state_dict().items() if k.endswith("num_batches_tracked")}
        classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
        torch.save(made_up_weights() | counters | classifier, file.name)
        theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=file.name)
    pixels = [np.asarray(noise(name, width=width, height=height)) for name, width, height in PICTURES]
    return theirs(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous())[0].numpy()[:, SAMPLED]


if __name__ == "__main__":
    print(np.array2string(golden(), separator=", ", precision=5, suppress_small=True))
