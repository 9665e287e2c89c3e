"""What a store gives back is what was put there, inside its folder: damaged files, forged names, links, sizes."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.hashing import file_hash
from artifacts.stores.folder import FolderStore
from artifacts.stores.index import INDEX_NAME, LARGEST_INDEX_BYTES, FileEntry, Index, parse_index
from artifacts.stores.opening import open_store
from artifacts.stores.s3 import S3Store
from artifacts.stores.store import Store, StoreError
from helpers.fuzz import cases

KEY = "gates/3f2a"


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> S3Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        store = open_store("s3://security", endpoint_url=s3_server)
        assert isinstance(store, S3Store)
        store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    store = copy.copy(request.getfixturevalue("bucket"))
    store.prefix = f"{tmp_path.name}/"
    return store


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    (tmp_path / "gate" / "deep").mkdir(parents=True)
    (tmp_path / "gate" / "manifest.json").write_text('{"concept": "tiger"}')
    (tmp_path / "gate" / "deep" / "gate.safetensors").write_bytes(bytes(range(256)) * 4)
    return tmp_path / "gate"


class Inside:
    """A store's own copy of KEY, to be read and damaged behind the store's back."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def place(self, name: str) -> Any:
        if isinstance(self.store, S3Store):
            listed = self.store.client.list_objects_v2(Bucket=self.store.bucket, Prefix=self.store.prefix)["Contents"]
            return next(item["Key"] for item in listed if item["Key"].endswith(f"/{name}"))
        assert isinstance(self.store, FolderStore)
        return self.store.root / KEY / name

    def read(self, place: Any) -> bytes:
        if isinstance(self.store, S3Store):
            return bytes(self.store.client.get_object(Bucket=self.store.bucket, Key=place)["Body"].read())
        return bytes(place.read_bytes())

    def write(self, place: Any, data: bytes) -> None:
        if isinstance(self.store, S3Store):
            self.store.client.put_object(Bucket=self.store.bucket, Key=place, Body=data)
        else:
            place.write_bytes(data)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_flipped_bit_and_any_cut_is_refused_and_leaves_nothing(store: Store, gate: Path, tmp_path: Path) -> None:
    assert store.put(KEY, gate)
    fetched = everything(store.fetch(KEY, tmp_path / "good"))
    assert {name: data for name, data in fetched.items() if name != INDEX_NAME} == everything(gate)
    inside = Inside(store)
    places = {name: inside.place(name) for name in fetched}
    before = everything(tmp_path)

    @cases(60)
    @given(name=st.sampled_from(sorted(places)), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 8))
    def check(name: str, place: float, bit: int) -> None:
        data = inside.read(places[name])
        at = int(place * len(data))
        wrong = data[:at] if bit == 8 else data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        inside.write(places[name], wrong)
        with pytest.raises(
            StoreError,
            match=f"is damaged: {name} .*; `cpe store repair` moves it away, and the next run makes it again",
        ):
            store.fetch(KEY, tmp_path / "copy")
        inside.write(places[name], data)
        assert everything(tmp_path) == before
        assert not (tmp_path / "copy").exists()

    check()
    assert everything(store.fetch(KEY, tmp_path / "copy")) == fetched


@pytest.mark.parametrize(
    "name", ["../escaped", "deep/../../escaped", "/escaped", "deep//escaped", "a\\escaped", "\x1bescaped"]
)
def test_a_forged_index_reads_nothing_outside_its_artifact(store: Store, gate: Path, tmp_path: Path, name: str) -> None:
    """The file it names exists where the name leads, with the size and the hash that the index says."""
    store.put(KEY, gate)
    inside = Inside(store)
    secret = b"another artifact's"
    (tmp_path / "escaped").write_bytes(secret)
    if isinstance(store, FolderStore):
        (store.root / "gates" / "escaped").write_bytes(secret)
    else:
        inside.write(f"{store.prefix}{KEY}/escaped", secret)
    good = parse_index(inside.read(inside.place(INDEX_NAME)))
    for data in (good.data, "..", f"{good.data}/..", "."):
        forged = Index(good.files | {name: FileEntry(file_hash(tmp_path / "escaped"), len(secret))}, data)
        inside.write(inside.place(INDEX_NAME), forged.dump())
        before = everything(tmp_path)
        with pytest.raises(StoreError, match="file name must be a plain relative path"):
            store.fetch(KEY, tmp_path / "new" / "copy")
        assert everything(tmp_path) == before
        inside.write(inside.place(INDEX_NAME), Index(good.files, data).dump())
        if data != good.data:
            with pytest.raises(StoreError, match="points outside the artifact"):
                store.fetch(KEY, tmp_path / "new" / "copy")
    inside.write(inside.place(INDEX_NAME), good.dump())
    assert len(everything(store.fetch(KEY, tmp_path / "new" / "copy"))) == 3


def test_more_than_the_index_says_is_not_brought_in(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    inside = Inside(store)
    index = parse_index(inside.read(inside.place(INDEX_NAME)))
    inside.write(inside.place("deep/gate.safetensors"), b"x" * 5_000_000)
    target = tmp_path / "one file"
    with pytest.raises(StoreError, match=r"is damaged: deep/gate\.safetensors has .* bytes"):
        store._copy_out(KEY, index, "deep/gate.safetensors", target)
    assert not target.exists() or target.stat().st_size <= 1024
    with pytest.raises(StoreError, match="is damaged"):
        store.fetch(KEY, tmp_path / "copy")


def test_an_index_without_end_is_refused(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    inside = Inside(store)
    inside.write(inside.place(INDEX_NAME), b" " * (LARGEST_INDEX_BYTES + 10))
    with pytest.raises(StoreError, match=r"is damaged: index\.json has more than"):
        store.fetch(KEY, tmp_path / "copy")
    assert store.delete(KEY)


class Endless:
    """An answer's body that never ends; without a limit it would take all memory."""

    def read(self, amount: int) -> bytes:
        return b" " * amount

    def close(self) -> None:
        pass


def test_an_index_that_never_ends_is_cut_off(bucket: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket.client, "get_object", lambda **_: {"Body": Endless()})
    with pytest.raises(StoreError, match=r"is damaged: index\.json has more than"):
        bucket.fetch(KEY, tmp_path / "copy")


def test_only_keys_that_could_have_been_put_are_listed(store: Store, gate: Path) -> None:
    store.put(KEY, gate)
    inside = Inside(store)
    for strange in ("a b", "x\u202ey", ".hidden"):
        if isinstance(store, FolderStore):
            (store.root / "gates" / strange).mkdir()
            (store.root / "gates" / strange / INDEX_NAME).write_text("{}")
        else:
            inside.write(f"{store.prefix}gates/{strange}/{INDEX_NAME}", b"{}")
    assert store.keys() == [KEY]


@pytest.mark.parametrize("link", ["file", "folder", "device", "pipe"])
def test_a_link_or_a_device_in_a_stored_artifact_is_refused(gate: Path, tmp_path: Path, link: str) -> None:
    """What is behind the link has the very bytes that the index names."""
    store = FolderStore(tmp_path / "store")
    store.put(KEY, gate)
    folder = store.root / KEY
    if link == "folder":
        (folder / "deep").rename(tmp_path / "elsewhere")
        (folder / "deep").symlink_to(tmp_path / "elsewhere")
    else:
        path = folder / "deep" / "gate.safetensors"
        path.rename(tmp_path / "elsewhere")
        if link == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero" if link == "device" else tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"gate\.safetensors is (a link|missing)"):
        store.fetch(KEY, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_link_in_a_folder_is_not_stored(gate: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    for target in (tmp_path / "secret", tmp_path / "secret" / "key", Path("nowhere"), Path("/dev/zero")):
        (gate / "link").symlink_to(target)
        with pytest.raises(ValueError, match="must hold plain files only, but 'link' is not one"):
            FolderStore(tmp_path / "store").put(KEY, gate)
        (gate / "link").unlink()
    assert not (tmp_path / "store").exists()


def test_a_link_that_leads_back_does_not_hang_a_store(gate: Path, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put(KEY, gate)
    for name in ("one", "two", "three"):
        (store.root / name).symlink_to(store.root)
        (store.root / "gates" / name).symlink_to(store.root)
    assert store.keys() == [KEY]


def test_a_fetched_folder_with_more_in_it_is_refused(store: Store, gate: Path, tmp_path: Path) -> None:
    """A gate that nobody verified would be loaded with the others."""
    store.put(KEY, gate)
    target = store.fetch(KEY, tmp_path / "copy")
    for strange in (target / "deep" / "more.safetensors", target / "link"):
        strange.symlink_to("/dev/null") if strange.name == "link" else strange.write_text("mine")
        with pytest.raises(StoreError, match=f"holds something else besides the artifact, .*{strange.name}"):
            store.fetch(KEY, target)
        assert strange.is_symlink() or strange.read_text() == "mine"
        strange.unlink()
    (target / "deep" / "gate.safetensors").rename(tmp_path / "elsewhere")
    (target / "deep" / "gate.safetensors").symlink_to(tmp_path / "elsewhere")
    store.fetch(KEY, target)
    assert not (target / "deep" / "gate.safetensors").is_symlink()
