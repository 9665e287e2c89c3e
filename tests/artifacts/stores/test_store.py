"""A store keeps artifacts whole: on a disk and in S3 (moto over HTTP) the same properties hold."""

import copy
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import artifacts.stores.folder
from artifacts.hashing import content_hash, file_hash, folder_hash
from artifacts.stores.folder import FolderStore
from artifacts.stores.index import FileEntry, Index
from artifacts.stores.opening import open_store
from artifacts.stores.s3 import LEFTOVER_AGE, S3Store
from artifacts.stores.store import Store, StoreError

KEY = "gates/3f2a"
SECRET = "do-not-print-this-secret"


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> S3Store:
    """A store with the one client of all tests: boto3 takes half a second to make one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        store = open_store("s3://tests", endpoint_url=s3_server)
        assert isinstance(store, S3Store)
        store.client.create_bucket(Bucket=store.bucket)
    return store


@pytest.fixture
def s3_store(bucket: S3Store, request: pytest.FixtureRequest) -> S3Store:
    store = copy.copy(bucket)
    store.prefix = f"{content_hash(request.node.nodeid)}/deep/"
    return store


@pytest.fixture
def folder_store(tmp_path: Path) -> FolderStore:
    store = open_store(f"file://{tmp_path / 'store'}")
    assert isinstance(store, FolderStore)
    return store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return write_gate(tmp_path / "gate")


def write_gate(folder: Path, text: str = "tiger") -> Path:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"concept": text}))
    (folder / "gate.safetensors").write_bytes(text.encode() * 5000)
    (folder / "deep" / "er" / "ä file.bin").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if name != "index.json"}


def stored_bytes(store: Store, name: str) -> tuple[Any, bytes]:
    """Find a file of KEY where the store keeps it: an opaque place to pass to `overwrite`, and its bytes."""
    if isinstance(store, FolderStore):
        path = store.root / KEY / name
        return path, path.read_bytes()
    assert isinstance(store, S3Store)
    (found,) = [item for item in everything(store) if item.endswith("/" + name)]
    return found, store.client.get_object(Bucket=store.bucket, Key=found)["Body"].read()


def overwrite(store: Store, place: Any, data: bytes) -> None:
    if isinstance(store, S3Store):
        store.client.put_object(Bucket=store.bucket, Key=place, Body=data)
    else:
        place.write_bytes(data)


def everything(store: Store) -> list[str]:
    """List all that is in the store, hidden things included."""
    if isinstance(store, S3Store):
        return [
            item["Key"]
            for item in store.client.list_objects_v2(Bucket=store.bucket, Prefix=store.prefix).get("Contents", [])
        ]
    assert isinstance(store, FolderStore)
    return [str(path) for path in store.root.rglob("*") if path.is_file()]


def break_copy(store: Store, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, after: int) -> None:
    """Let `after` files of the next put through, then raise."""
    count = 0

    def broken(work: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise error
            return work(*args, **options)

        return call

    if isinstance(store, S3Store):
        monkeypatch.setattr(store.client, "upload_fileobj", broken(store.client.upload_fileobj))
    else:
        monkeypatch.setattr(artifacts.stores.folder, "_copy_file", broken(artifacts.stores.folder._copy_file))


def test_what_is_put_comes_back_byte_for_byte(store: Store, gate: Path, tmp_path: Path) -> None:
    assert not store.has(KEY)
    assert store.put(KEY, gate) is True
    assert store.has(KEY)
    fetched = store.fetch(KEY, tmp_path / "new" / "copy")
    assert contents(fetched) == contents(gate)
    assert (fetched / "index.json").is_file()


def test_an_artifact_is_never_overwritten(store: Store, gate: Path, tmp_path: Path) -> None:
    assert store.put(KEY, gate)
    before = sorted(everything(store))
    assert store.put(KEY, write_gate(tmp_path / "other", "lion")) is False
    assert sorted(everything(store)) == before
    assert contents(store.fetch(KEY, tmp_path / "copy")) == contents(gate)


def test_a_fetched_folder_can_be_put_again(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    assert store.put("gates/again", store.fetch(KEY, tmp_path / "copy"))
    assert contents(store.fetch("gates/again", tmp_path / "again")) == contents(gate)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_cut_off_put_leaves_nothing_and_can_be_repeated(
    store: Store, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with monkeypatch.context() as patch:
        break_copy(store, patch, error, after=1)
        with pytest.raises(StoreError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
            store.put(KEY, gate)
    if isinstance(error, OSError):
        assert "disk is full" in str(caught.value)
    assert not store.has(KEY)
    assert store.keys() == []
    assert everything(store) == []
    assert store.put(KEY, gate)
    assert contents(store.fetch(KEY, tmp_path / "copy")) == contents(gate)


def test_an_upload_killed_before_its_index_is_invisible(
    s3_store: S3Store, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = s3_store.client.put_object

    def killed(**options: Any) -> Any:
        if "IfNoneMatch" in options:
            raise KeyboardInterrupt
        return send(**options)

    with monkeypatch.context() as patch:
        patch.setattr(s3_store.client, "put_object", killed)
        with pytest.raises(KeyboardInterrupt):
            s3_store.put(KEY, gate)
    assert len(everything(s3_store)) == 3  # the data, as a killed process leaves it
    assert not s3_store.has(KEY)
    assert s3_store.keys() == []
    assert s3_store.put(KEY, gate)
    assert contents(s3_store.fetch(KEY, tmp_path / "copy")) == contents(gate)


def test_delete_clears_old_leftovers_but_no_upload_under_way(
    s3_store: S3Store, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{s3_store.prefix}{KEY}/.data-{'0' * 32}/manifest.json"
    overwrite(s3_store, place, b"{}")
    s3_store.put(KEY, gate)
    assert s3_store.delete(KEY)
    assert everything(s3_store) == [place]
    monkeypatch.setattr("artifacts.stores.s3.LEFTOVER_AGE", -LEFTOVER_AGE)
    assert not s3_store.delete(KEY)
    assert everything(s3_store) == []


def test_a_lost_answer_to_the_index_is_still_our_success(
    s3_store: S3Store, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = s3_store.client.put_object

    def twice(**options: Any) -> Any:
        if "IfNoneMatch" in options:
            send(**options)  # botocore sends again when the first answer gets lost, and the server says 412
        return send(**options)

    monkeypatch.setattr(s3_store.client, "put_object", twice)
    assert s3_store.put(KEY, gate) is True
    assert contents(s3_store.fetch(KEY, tmp_path / "copy")) == contents(gate)


def test_a_writer_who_finds_the_key_taken_between_two_looks_lost_and_was_not_wrong(
    store: Store, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = store.has
    monkeypatch.setattr(store, "has", lambda key: False)
    assert store.put(KEY, gate)
    assert not store.put(KEY, gate), "another's"
    monkeypatch.setattr(store, "has", look)
    assert store.keys() == [KEY]


def test_of_racing_writers_exactly_one_wins_and_its_content_is_intact(store: Store, tmp_path: Path) -> None:
    gates = [write_gate(tmp_path / f"gate{number}", f"concept {number}") for number in range(4)]
    barrier = threading.Barrier(len(gates))
    won: dict[int, bool] = {}

    def race(number: int) -> None:
        barrier.wait()
        won[number] = store.put(KEY, gates[number])

    threads = [threading.Thread(target=race, args=(number,)) for number in range(len(gates))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, stored in won.items() if stored]
    assert len(won) == len(gates)
    assert contents(store.fetch(KEY, tmp_path / "copy")) == contents(gates[winner])
    assert len(everything(store)) == len(contents(gates[winner])) + 1  # the losers left nothing


@pytest.mark.parametrize("damage", ["bit flip", "truncated"])
@pytest.mark.parametrize("name", ["gate.safetensors", "manifest.json", "index.json"])
def test_damage_in_the_store_is_found_and_named(
    store: Store, gate: Path, tmp_path: Path, name: str, damage: str
) -> None:
    store.put(KEY, gate)
    place, data = stored_bytes(store, name)
    flipped = data[:9] + bytes([data[9] ^ 1]) + data[10:]
    overwrite(store, place, flipped if damage == "bit flip" else data[:-1])
    with pytest.raises(StoreError, match=rf"{KEY}.* is damaged: {name}.*cpe store repair"):
        store.fetch(KEY, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert store.delete(KEY)
    assert store.put(KEY, gate)
    assert contents(store.fetch(KEY, tmp_path / "copy")) == contents(gate)


def test_an_artifact_that_is_deleted_while_it_is_read_is_an_error_of_the_store(
    folder_store: FolderStore, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_file = artifacts.stores.folder._copy_file

    def too_late(source: Path, target: Path) -> None:
        if source.is_relative_to(folder_store.root):
            folder_store.delete(KEY)
        copy_file(source, target)

    folder_store.put(KEY, gate)
    monkeypatch.setattr(artifacts.stores.folder, "_copy_file", too_late)
    with pytest.raises(StoreError, match=r"manifest\.json is missing"):
        folder_store.read_file(KEY, "manifest.json")


def test_a_missing_file_is_named(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    place, _ = stored_bytes(store, "gate.safetensors")
    if isinstance(store, S3Store):
        store.client.delete_object(Bucket=store.bucket, Key=place)
    else:
        place.unlink()
    with pytest.raises(StoreError, match=r"gate\.safetensors is missing"):
        store.fetch(KEY, tmp_path / "copy")


@pytest.mark.parametrize("name", ["../escaped", "deep/../../escaped", "/tmp/escaped", "a//b", "a\\b", "index.json"])
def test_an_index_that_names_files_outside_is_refused(store: Store, gate: Path, tmp_path: Path, name: str) -> None:
    store.put(KEY, gate)
    place, data = stored_bytes(store, "index.json")
    files = {each: FileEntry(**entry) for each, entry in json.loads(data)["files"].items()}
    evil = Index(files | {name: FileEntry(file_hash(gate / "gate.safetensors"), 25000)}, json.loads(data)["data"])
    overwrite(store, place, evil.dump())
    with pytest.raises(StoreError, match="file name must be a plain relative path"):
        store.fetch(KEY, tmp_path / "inside" / "copy")
    assert not list(tmp_path.rglob("escaped"))


def test_an_index_that_points_to_other_data_is_refused(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    place, data = stored_bytes(store, "index.json")
    files = {each: FileEntry(**entry) for each, entry in json.loads(data)["files"].items()}
    overwrite(store, place, Index(files, "../other").dump())
    with pytest.raises(StoreError, match="points outside the artifact"):
        store.fetch(KEY, tmp_path / "copy")


def test_a_fetched_artifact_is_not_fetched_again(
    store: Store, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, gate)
    target = store.fetch(KEY, tmp_path / "copy")
    monkeypatch.setattr(store, "_copy_out", None)
    assert contents(store.fetch(KEY, target)) == contents(gate)


def test_a_damaged_local_copy_is_replaced_and_a_strange_folder_kept(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put(KEY, gate)
    target = store.fetch(KEY, tmp_path / "copy")
    (target / "gate.safetensors").write_bytes(b"damaged")
    assert contents(store.fetch(KEY, target)) == contents(gate)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("my only copy")
    with pytest.raises(StoreError, match="holds something else"):
        store.fetch(KEY, strange)
    assert (strange / "thesis.txt").read_text() == "my only copy"


def test_a_full_disk_at_fetch_leaves_nothing(
    store: Store, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(KEY, gate)
    copy_out, count = store._copy_out, []

    def full(*args: Any) -> None:
        count.append(args)
        if len(count) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        copy_out(*args)

    monkeypatch.setattr(store, "_copy_out", full)
    with pytest.raises(StoreError, match="disk is full"):
        store.fetch(KEY, tmp_path / "new" / "copy")
    assert list((tmp_path / "new").iterdir()) == []


def test_keys_are_sorted_whole_and_below_their_prefix(store: Store, gate: Path) -> None:
    for key in ("gates/b", "gates/a", "gates-old/a", "bundles/x/1", "bundles/x/2"):
        store.put(key, gate)
    assert store.keys() == ["bundles/x/1", "bundles/x/2", "gates-old/a", "gates/a", "gates/b"]
    assert store.keys("gates") == store.keys("gates/") == ["gates/a", "gates/b"]
    assert store.keys("bundles/x") == ["bundles/x/1", "bundles/x/2"]
    assert store.keys("nothing") == []


def test_delete_removes_one_artifact_and_all_of_it(store: Store, gate: Path, tmp_path: Path) -> None:
    store.put("gates/kept", gate)
    before = sorted(everything(store))
    store.put(KEY, gate)
    assert store.delete(KEY) is True
    assert store.delete(KEY) is False
    assert sorted(everything(store)) == before
    with pytest.raises(StoreError, match="there is no artifact gates/3f2a"):
        store.fetch(KEY, tmp_path / "copy")


def test_artifacts_do_not_nest(store: Store, gate: Path) -> None:
    store.put("gates/a/b", gate)
    for key in ("gates/a", "gates/a/b/c"):
        with pytest.raises(ValueError, match="must not lie inside or above another artifact"):
            store.put(key, gate)


def test_a_malformed_key_is_refused_everywhere(store: Store, gate: Path, tmp_path: Path) -> None:
    for key in ("", "/a", "a/", "a//b", "../a", "a/../b", "a/.hidden", "a b", "ä", "a\\b", "a\n"):
        for action in (
            lambda: store.has(key),  # noqa: B023
            lambda: store.put(key, gate),  # noqa: B023
            lambda: store.fetch(key, tmp_path / "copy"),  # noqa: B023
            lambda: store.delete(key),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="key must be parts of letters"):
                action()


def test_a_folder_that_is_no_artifact_is_refused(store: Store, gate: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be an existing folder"):
        store.put(KEY, tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must hold a manifest\.json"):
        store.put(KEY, tmp_path / "empty")
    (gate / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="'link' is not one"):
        store.put(KEY, gate)
    (gate / "link").unlink()
    (gate / "index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must not hold an index\.json"):
        store.put(KEY, gate)
    assert everything(store) == []


def test_a_url_opens_the_store_it_names(
    tmp_path: Path, gate: Path, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("file://some store/deep", "some store/deep", f"file://{tmp_path}/some%20store/deep"):
        store = open_store(url)
        assert isinstance(store, FolderStore)
        assert store.root == tmp_path / "some store" / "deep"
        assert open_store(store.url).url == store.url
    assert open_store("s3://bucket/pre/fix/").url == "s3://bucket/pre/fix"
    assert open_store("s3://bucket").url == "s3://bucket"


@pytest.mark.parametrize(
    "url", ["gs://bucket/x", "http://host/x", "", "file://", "s3://", "s3://Not_A_Bucket", "s3://b"]
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url must "):
        open_store(url)


def test_credentials_never_appear_in_messages(credentials: None, s3_server: str, tmp_path: Path) -> None:
    for url, endpoint in ((f"s3://me:{SECRET}@bucket/x", s3_server), ("s3://bucket", f"http://me:{SECRET}@host")):
        with pytest.raises(ValueError, match="credentials") as caught:
            open_store(url, endpoint_url=endpoint)
        assert SECRET not in str(caught.value)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path, gate: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError, match="a file is in the way"):
            open_store(str(place)).put(KEY, gate)
    with pytest.raises(StoreError, match="a file is in the way"):
        open_store(str(tmp_path / "file")).has(KEY)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_missing_bucket_says_so(s3_server: str, credentials: None, gate: Path, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/x", endpoint_url=s3_server)
    for action in (
        lambda: store.has(KEY),
        lambda: store.put(KEY, gate),
        lambda: store.keys(),
        lambda: store.delete(KEY),
        lambda: store.fetch(KEY, tmp_path / "copy"),
    ):
        with pytest.raises(StoreError, match="bucket does not exist; create it"):
            action()


def test_an_endpoint_that_nobody_answers_says_so(
    credentials: None, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"at http://127\.0\.0\.1:9: the server cannot be reached"):
        open_store("s3://bucket/x").put(KEY, gate)


def test_missing_credentials_say_so(
    s3_server: str, credentials: None, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match="credentials are missing or refused"):
        open_store("s3://bucket/x", endpoint_url=s3_server).put(KEY, gate)


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_refused_credentials_say_so(s3_store: S3Store, gate: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        answer = {"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        raise s3_store.client.exceptions.ClientError(answer, "GetObject")

    monkeypatch.setattr(s3_store.client, "get_object", refuse)
    with pytest.raises(StoreError, match="credentials are missing or refused") as caught:
        s3_store.put(KEY, gate)
    assert SECRET not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aä☃"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abä"), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), json_values, max_size=4))
def test_a_content_hash_ignores_the_order_of_keys_and_survives_json(value: dict[str, Any]) -> None:
    shuffled = dict(reversed(value.items()))
    assert content_hash(value) == content_hash(shuffled) == content_hash(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, float("nan")]}, r"value\['a'\]\[1\] must be a finite number"),
        ({"a": {1: 2}}, r"value\['a'\] must have str keys"),
        ({"a": {1, 2}}, r"value\['a'\] must be plain JSON"),
        (Path("x"), "value must be plain JSON"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_content_hash_refuses_what_is_not_json(value: Any, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        content_hash(value)


def test_a_content_hash_refuses_a_value_that_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        content_hash(endless)


def test_different_values_have_different_hashes() -> None:
    values: list[Any] = [None, True, 1, 1.5, "1", [], [1], {}, {"a": 1}, {"a": 2}, {"b": 1}, [[1]], ""]
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash({"b": 1, "a": 2}) == "d3626ac30a87e6f7a6428233b3c68299976865fa5508e4267c5415c76af7a772"


def test_a_folder_hash_sees_names_and_contents_only(gate: Path, tmp_path: Path) -> None:
    first = folder_hash(gate)
    assert folder_hash(write_gate(tmp_path / "same")) == first
    os.utime(gate / "manifest.json", (1, 1))
    (gate / "new.log").write_text("noise")
    assert folder_hash(gate) != first
    assert folder_hash(gate, ignore=["*.log"]) == first
    (gate / "gate.safetensors").rename(gate / "renamed.safetensors")
    assert folder_hash(gate, ignore=["*.log"]) != first
    with pytest.raises(ValueError, match="must be an existing folder"):
        folder_hash(gate / "manifest.json")
