"""Gate files from anywhere: read as they were written, or refused in one short message."""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from cpe.methods.erased import LARGEST_HEADER_BYTES
from cpe.methods.pinpoint.config import GateConfig
from cpe.methods.pinpoint.storage.checks import GateFileError
from cpe.methods.pinpoint.storage.files import LoadedGates, metadata_of, read_gates, to_tensors
from helpers.fuzz import DEEP, JSON, SHORT, cases
from helpers.places import PROJECT
from helpers.small import random_gates, small_base

BASE = small_base(torch.float32)


def gates_file(count: int = 2, **config: Any) -> tuple[LoadedGates, bytes]:
    gates = random_gates(GateConfig(**{"gate_rank": 4, **config}), BASE, count=count)
    concepts = tuple(f"concept {number}" for number in range(count))
    return LoadedGates(concepts, BASE.names, gates), save(to_tensors(gates, BASE.names), metadata_of(gates, concepts))


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: Any, body: bytes, *, claimed: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + body


GATES, GOOD = gates_file()
HEADER, BODY = split(GOOD)
NAMES = [name for name in HEADER if name != "__metadata__"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


def read(path: Path, data: bytes) -> LoadedGates | None:
    """Reads a file; None where it was refused as it should be."""
    path.write_bytes(data)
    message = None
    try:
        loaded = read_gates(path)
    except GateFileError as error:
        message = str(error)
    if message is not None:
        assert message.startswith(str(path.parent))
        assert len(message) < SHORT + 2 * len(str(path))
        assert "\n" not in message
        return None
    tensors = loaded.gates
    assert len(loaded.concepts) == len(tensors) > 0
    assert all(isinstance(concept, str) for concept in loaded.concepts)
    assert len(set(loaded.sites)) == len(loaded.sites) == len(tensors.widths)
    for name in ("query", "key", "score", "down", "up"):
        tensor = getattr(tensors, name)
        assert tensor.is_floating_point()
        assert tensor.isfinite().all()
    assert tensors.down.shape[1:] == (tensors.text_width, tensors.config.adapter_rank * len(tensors.widths))
    assert tensors.up.shape[1:] == (tensors.config.adapter_rank, sum(tensors.widths))
    return loaded


def test_gates_come_back_as_written(tmp_path):
    @cases(150)
    @given(
        shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.booleans()),
        alpha=st.floats(1e-3, 1e3),
        names=st.lists(TEXTS | st.sampled_from(["[a]", '["a"]', "a, b", " a ", "{}", '"']), min_size=3, max_size=3),
    )
    def check(shape, alpha, names):
        count, adapter, tied = shape
        config = GateConfig(gate_rank=4, adapter_rank=adapter, alpha=alpha, tied_qk=tied)
        gates, concepts = random_gates(config, BASE, count=count), tuple(names[:count])
        loaded = read(tmp_path / "gates", save(to_tensors(gates, BASE.names), metadata_of(gates, concepts)))
        assert loaded is not None
        assert loaded.concepts == concepts
        assert loaded.gates.config == config
        order = sorted(range(len(BASE.names)), key=lambda place: "lora_unet_" + BASE.names[place].replace(".", "_"))
        assert loaded.sites == tuple(BASE.names[place] for place in order)
        for name in ("query", "key", "score"):
            assert torch.equal(getattr(loaded.gates, name), getattr(gates, name))

    check()


def test_a_header_with_other_bytes_is_read_or_refused(tmp_path):
    refused = []

    @cases(900)
    @given(
        changes=st.lists(
            st.tuples(st.integers(0, len(GOOD) - len(BODY) - 1), st.binary(max_size=3)), min_size=1, max_size=3
        )
    )
    def check(changes):
        data = GOOD
        for place, new in changes:
            data = data[:place] + new + data[place + 1 :]
        refused.append(read(tmp_path / "gates", data) is None)

    check()
    assert sum(refused) > len(refused) / 2
    assert read(tmp_path / "gates", GOOD) is not None


SIZES = st.sampled_from([-1, 0, 1, 2, 4, 20, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.5, "2", None])
SHAPES = st.lists(SIZES, max_size=5) | st.sampled_from([[1] * 70, [2, 20], [2, 20, 4], [20, 2, 4], [0, 2**62], "x", {}])
OFFSETS = st.lists(st.sampled_from([-1, 0, 8, 640, len(BODY), len(BODY) + 1, 2**63, 2**64, "0"]), max_size=3)
DTYPES = st.sampled_from(["F32", "F16", "BF16", "F64", "I32", "U8", "BOOL", "F8_E4M3", "F4", "C64", "F99", "", 7])
ENTRIES = st.fixed_dictionaries({"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS})
METADATA = st.dictionaries(
    st.sampled_from(["prompts", "alpha", "tied_qk", "rank", "x"]),
    st.text(max_size=8)
    | st.sampled_from(["nan", "inf", "-inf", "-1", "0", "1e999", "[1, 2]", '["a"', "[" * 5000, '["a", 2]']),
)


@st.composite
def headers(draw: st.DrawFn) -> Any:
    header = json.loads(json.dumps(HEADER))
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)):
        kind = draw(
            st.sampled_from(["dtype", "shape", "data_offsets", "whole", "gone", "renamed", "doubled", "metadata"])
        )
        if kind == "metadata":
            header["__metadata__"] = draw(METADATA | JSON)
        elif kind == "whole":
            header[name] = draw(ENTRIES | JSON)
        elif kind == "renamed":
            header[draw(st.text(max_size=30) | st.sampled_from(NAMES))] = header.pop(name, None)
        elif kind == "doubled":
            header[draw(st.sampled_from(NAMES)) + draw(st.text(max_size=3))] = header.get(name)
        elif kind == "gone":
            header.pop(name, None)
        elif isinstance(header.get(name), dict):
            header[name][kind] = draw({"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS}[kind])
    return header


def test_a_header_that_says_other_things_is_read_or_refused(tmp_path):
    refused = []

    @cases(900)
    @given(header=headers() | JSON)
    def check(header):
        refused.append(read(tmp_path / "gates", joined(header, BODY)) is None)

    check()
    assert 50 < sum(refused) < len(refused) - 50


@pytest.mark.parametrize(
    "claimed", [0, 1, len(GOOD) - len(BODY) - 7, LARGEST_HEADER_BYTES + 1, 2**31, 2**63, 2**64 - 1]
)
def test_a_header_that_lies_about_its_length_is_refused(tmp_path, claimed):
    assert read(tmp_path / "gates", joined(HEADER, BODY, claimed=claimed)) is None


def test_what_is_very_long_is_refused_in_a_short_message(tmp_path):
    long = "x" * 10_000
    key = next(name for name in NAMES if name.endswith("lora_down.weight"))
    for header in (
        {**HEADER, key: {**HEADER[key], "dtype": long}},
        {**HEADER, key: {**HEADER[key], "shape": [1] * 10_000}},
        {**HEADER, key.replace("lora_down", f"{long}.lora_down"): HEADER[key]},
        {f"{long}.lora_down.weight" if name == key else name: value for name, value in HEADER.items()},
        {**HEADER, "__metadata__": {"alpha": long}},
        {**HEADER, "__metadata__": {long: 1}},
    ):
        assert read(tmp_path / "gates", joined(header, BODY)) is None


def test_tensors_that_no_gate_may_hold_are_refused(tmp_path):
    def changed(name: str, tensor: torch.Tensor, **metadata: str) -> LoadedGates | None:
        tensors = {**to_tensors(GATES.gates, GATES.sites), name: tensor}
        return read(tmp_path / "gates", save(tensors, {**metadata_of(GATES.gates, GATES.concepts), **metadata}))

    good = to_tensors(GATES.gates, GATES.sites)
    for name, tensor in good.items():
        assert changed(name, tensor.clone()) is not None
        assert changed(name, tensor.to(torch.int32)) is None
        assert changed(name, torch.zeros(1, *tensor.shape, 2)) is None
        if name.endswith(".alpha"):
            assert changed(name, tensor + 1) is None  # the other projections have another
        else:
            assert changed(name, torch.full_like(tensor, float("nan"))) is None
            assert changed(name, torch.cat([tensor[..., 1:], torch.full_like(tensor[..., :1], torch.inf)], -1)) is None
            assert changed(name, torch.zeros(0, *tensor.shape[1:])) is None
    site = next(name for name in good if name.endswith("lora_up.weight"))
    twice = {name.replace("_0_", ".0_"): tensor for name, tensor in good.items() if name.startswith(site[:30])}
    assert read(tmp_path / "gates", save(good | {name: tensor.clone() for name, tensor in twice.items()})) is None
    for alpha in ("nan", "inf", "0", "-1", "one"):
        assert changed(site, good[site], alpha=alpha) is None
    wide = {name: t.repeat(1, 1, 129) if "lora_down" in name else t for name, t in good.items()}
    wide |= {name: t.repeat(1, 129, 1) for name, t in good.items() if "lora_up" in name}
    (tmp_path / "wide").write_bytes(save(wide))
    with pytest.raises(GateFileError, match="adapter_rank is 129: Input should be less than or equal to 128"):
        read_gates(tmp_path / "wide")


@pytest.mark.parametrize("prompts", ['["a", 2]', "[1, 2]", "[{}, []]", '["a"]', "[a", DEEP, "a", "", "{}"])
def test_names_that_are_none_are_replaced(tmp_path, prompts):
    loaded = read(tmp_path / "gates", joined({**HEADER, "__metadata__": {"prompts": prompts}}, BODY))
    assert loaded is not None
    assert loaded.concepts == ("gates 1", "gates 2")


def test_a_gate_beside_its_manifest_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "gate.safetensors"
    manifest = {"sha256": hashlib.sha256(GOOD).hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read(path, GOOD) is not None

    @cases(400)
    @given(place=st.integers(0, len(GOOD) - 1), change=st.integers(1, 255), cut=st.booleans())
    def check(place, change, cut):
        rest = b"" if cut else bytes([GOOD[place] ^ change]) + GOOD[place + 1 :]
        assert read(path, GOOD[:place] + rest) is None

    check()


def test_a_manifest_beside_a_gate_may_say_anything(tmp_path):
    path, manifest = tmp_path / "gate.safetensors", tmp_path / "manifest.json"
    path.write_bytes(GOOD)

    @cases(300)
    @given(text=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(DEEP.encode()))
    def check(text):
        manifest.write_bytes(text)
        refused = read(path, GOOD) is None
        assert refused or json.loads(text).get("sha256") is None

    check()
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(GateFileError, match="is damaged"):
        read_gates(path)


def test_what_is_no_file_is_no_gate(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "loop", "absent"):
        with pytest.raises(FileNotFoundError, match="no gate file"):
            read_gates(tmp_path / name)


def test_a_file_of_another_kind_or_with_a_huge_header_takes_no_memory(tmp_path):
    """Two gibibytes of a model, without and with a gate beside them, and a gate with 40 MB of names."""
    size, entry = 2**31, {"dtype": "F32", "shape": [2**29]}
    model = joined({"weight": {**entry, "data_offsets": [0, size]}}, b"")
    beside = joined({**HEADER, "weight": {**entry, "data_offsets": [len(BODY), len(BODY) + size]}}, BODY)
    names = joined({**HEADER, "__metadata__": {"prompts": f"[{'[],' * 13_000_000}[]]"}}, BODY)
    for name, data, zeros in (("model", model, size), ("names", names, 0), ("beside", beside, size)):
        with (tmp_path / name).open("wb") as file:
            file.write(data)
            file.truncate(len(data) + zeros)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from cpe.methods.pinpoint.storage.files import GateFileError, read_gates\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before, refused = used(), 0\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try: read_gates(path)\n"
        "    except GateFileError: refused += 1\n"
        "print(refused, used() - before)"
    )
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in ("model", "names", "beside"))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    refused, mebibytes = map(int, done.stdout.split())
    assert refused == 2
    assert mebibytes < 50
