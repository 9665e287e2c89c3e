"""Lists in S3 are copied as they are, kept up to date, and nothing else comes along."""

import boto3
import pytest

from artifacts.stores.lists import LARGEST_FILE_BYTES, sync_lists
from artifacts.stores.store import StoreError
from helpers.here import here
from tasks.prepare import find_list


@pytest.fixture
def bucket(new_bucket):
    return boto3.resource("s3").Bucket(new_bucket)


def put(bucket, key, body=b"name: one\n"):
    bucket.put_object(Key=key, Body=body)


def test_a_copy_follows_what_is_added_changed_and_removed(bucket, tmp_path):
    put(bucket, "mine/one.yaml")
    put(bucket, "mine/sets/some.yaml", b"name: some\n")
    for other in ("mine/notes.txt", "mine/deep/er/two.yaml", "mine/../x.yaml", "other/three.yaml", "mine/.hidden.yaml"):
        put(bucket, other)
    folder = sync_lists(f"s3://{bucket.name}/mine", tmp_path / "copy")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")) == ["one.yaml", "sets/some.yaml"]
    assert list(tmp_path.iterdir()) == [folder], "nothing outside"
    put(bucket, "mine/one.yaml", b"name: changed\n")
    bucket.Object("mine/sets/some.yaml").delete()
    sync_lists(f"s3://{bucket.name}/mine", folder)
    assert (folder / "one.yaml").read_bytes() == b"name: changed\n"
    assert not (folder / "sets" / "some.yaml").exists()


def test_a_list_is_found_by_name_where_lists_are(bucket, tmp_path, monkeypatch):
    put(bucket, "mine/one.yaml", b"name: first\n")
    monkeypatch.setenv("CPE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("CPE_LISTS", f"s3://{bucket.name}/mine")
    assert find_list(here(), "one").read_text() == "name: first\n"
    put(bucket, "mine/one.yaml", b"name: second\n")
    assert find_list(here(), "one").read_text() == "name: second\n"
    assert find_list(here(), "somewhere/else.yaml").as_posix() == "somewhere/else.yaml"


def test_a_file_too_large_for_a_list_is_refused_and_the_copy_stays(bucket, tmp_path):
    put(bucket, "mine/one.yaml")
    folder = sync_lists(f"s3://{bucket.name}/mine", tmp_path / "copy")
    put(bucket, "mine/huge.yaml", b"#" * (LARGEST_FILE_BYTES + 1))
    with pytest.raises(StoreError, match=r"huge\.yaml is larger"):
        sync_lists(f"s3://{bucket.name}/mine", folder)
    assert (folder / "one.yaml").is_file()
    assert not (folder / "huge.yaml").exists()
