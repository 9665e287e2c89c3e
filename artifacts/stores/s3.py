"""A store in S3: data first, each upload under a name of its own, then index.json, once, with If-None-Match.

Objects below the store's prefix: `<key>/.data-<random>/<file name>` and `<key>/index.json`, which names the `.data-…`
it belongs to. Two writers of one key can therefore never touch each other's files; the server lets one index in.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from artifacts.disk import StoreError, reporting
from artifacts.hashing import CHUNK_BYTES
from artifacts.stores.index import INDEX_NAME, LARGEST_INDEX_BYTES, Index, build_index, list_files, parse_index
from artifacts.stores.keys import check_key, is_key
from artifacts.stores.s3_client import BUCKET_PATTERN, CONFIG, ENDPOINT_PATTERN, advice_on, open_client
from artifacts.stores.store import ASIDE, Store

CONFLICT_TRIES = 6
LEFTOVER_AGE = timedelta(days=1)  # an upload that old was cut off, no matter how slow the line


class S3Store(Store):
    """Artifacts in an S3 bucket below a prefix.

    Args:
        location: "bucket" or "bucket/prefix".
        endpoint_url: The server when it is not AWS; None takes it from the environment.

    Raises:
        ValueError: A malformed bucket, prefix or endpoint, or credentials inside an address.
        StoreError: boto3 cannot be set up.
    """

    def __init__(self, location: str, *, endpoint_url: str | None = None) -> None:
        bucket, _, prefix = location.strip("/").partition("/")
        if not BUCKET_PATTERN.fullmatch(bucket) or (prefix and not is_key(prefix)):
            raise ValueError(  # which does not repeat the address: a secret may be in it
                "url must be s3://bucket/prefix with a valid bucket name, a prefix of letters, digits, '.', '_', '-' "
                "and '/', and no credentials in it; credentials come from the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY)"
            )
        endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        if endpoint and not ENDPOINT_PATTERN.fullmatch(endpoint):
            raise ValueError("endpoint_url must be http(s)://host:port without credentials; fix AWS_ENDPOINT_URL")
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{self.prefix}".rstrip("/")
        config = CONFIG.merge(Config(s3={"addressing_style": "path"})) if endpoint else CONFIG
        self.where = endpoint or "AWS"
        with self._reporting("open"):
            self.client: Any = open_client(endpoint, config)

    def has(self, key: str) -> bool:
        """See `Store.has`."""
        return self._read_index(check_key(key)) is not None

    def put(self, key: str, folder: Path) -> bool:
        """See `Store.put`."""
        check_key(key)
        files = list_files(Path(folder))
        if self.has(key):
            return False
        self._check_place(key)
        with reporting(f"cannot store {key} in {self.url}"):
            index = build_index(files, data=f".data-{uuid.uuid4().hex}")
            self._upload(key, index, files)
        return self._publish(key, index)

    def keys(self, prefix: str = "") -> list[str]:
        """See `Store.keys`."""
        start = check_key(prefix.removesuffix("/"), "prefix") + "/" if prefix else ""
        names = (item["Key"].removeprefix(self.prefix) for item in self._list(start))
        found = (name.removesuffix("/" + INDEX_NAME) for name in names if name.endswith("/" + INDEX_NAME))
        return sorted(key for key in found if is_key(key))

    def delete(self, key: str) -> bool:
        """See `Store.delete`; uploads into this key that were cut off more than a day ago go too."""
        text = self._read_index(check_key(key))
        data = None
        with suppress(ValueError):
            data = parse_index(text).data if text is not None else None
        with self._reporting(f"delete {key} from"):
            if text is not None:
                self.client.delete_object(Bucket=self.bucket, Key=self._index_name(key))
            for name in self._data_names(key, data):
                self.client.delete_object(Bucket=self.bucket, Key=name)
        return text is not None

    def stored_at(self, key: str) -> datetime | None:
        """See `Store.stored_at`."""
        name = self._index_name(check_key(key))
        for item in self._list(f"{key}/{INDEX_NAME}"):
            if item["Key"] == name:
                return item["LastModified"].astimezone(UTC)
        return None

    def set_aside(self, key: str) -> str:
        """See `Store.set_aside`; its files too, as far as its index still names them or they are a day old."""
        text = self._read_index(check_key(key))
        if text is None:
            raise StoreError(f"there is no artifact {key} in {self.url} to move away; check the key")
        data = None
        with suppress(ValueError):
            data = parse_index(text).data
        aside = f"{self.prefix}{ASIDE}/{key}-{uuid.uuid4().hex[:8]}"
        with self._reporting(f"move {key} away in"):
            for name in [self._index_name(key), *self._data_names(key, data)]:  # without its index it is gone at once
                source = {"Bucket": self.bucket, "Key": name}
                target = aside + name.removeprefix(f"{self.prefix}{key}")
                self.client.copy_object(Bucket=self.bucket, Key=target, CopySource=source)
                self.client.delete_object(Bucket=self.bucket, Key=name)
        return f"s3://{self.bucket}/{aside}"

    def objects(self) -> Iterator[dict[str, Any]]:
        """List everything below the prefix, artifacts or not, as S3 describes it.

        Raises:
            StoreError: The store cannot be read.
        """
        return self._list("")

    def read_object(self, name: str, *, most: int) -> bytes:
        """Read one object below the prefix.

        Args:
            name: Its name without the prefix.
            most: Bytes read at most.

        Raises:
            StoreError: There is no such object, or it is larger.
        """
        with self._reporting(f"read {name} of"):
            with closing(self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"]) as body:
                content: bytes = body.read(most + 1)
        if len(content) > most:
            raise StoreError(f"{self.url}/{name} is larger than {most:,} bytes; make it smaller")
        return content

    def _upload(self, key: str, index: Index, files: dict[str, Path]) -> None:
        try:
            for name, path in files.items():
                with self._reporting(f"store {key} in"), open(path, "rb") as file:
                    self.client.upload_fileobj(file, self.bucket, self._data_name(key, index, name))
        except BaseException:
            self._drop_data(key, index)
            raise

    def _publish(self, key: str, index: Index) -> bool:
        """Write the index unless there is one; when the answer gets lost, find out whose index stands there."""
        body = index.dump()
        for attempt in range(CONFLICT_TRIES):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self._index_name(key), Body=body, IfNoneMatch="*")
                return True
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if status == 412:
                    stored = self._read_index(key)
                    if stored == body:  # ours: a first try came through, only its answer did not
                        return True
                    if stored is not None:
                        self._drop_data(key, index)
                        return False
                elif status != 409:  # 409: another conditional write is under way
                    if 400 <= status < 500:
                        self._drop_data(key, index)
                    raise self._error(f"store {key} in", error) from None
                time.sleep(0.1 * 2**attempt)
            except BotoCoreError as error:
                # The index may have arrived, so its data must stay; without it they are invisible leftovers.
                raise self._error(f"store {key} in", error) from None
        self._drop_data(key, index)
        raise StoreError(f"cannot store {key} in {self.url}: other writers keep the key busy; run again")

    def _read_index(self, key: str) -> bytes | None:
        with self._reporting("read"):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self._index_name(key))
                with closing(answer["Body"]) as body:
                    return bytes(body.read(LARGEST_INDEX_BYTES + 1))  # too much already for `parse_index`
            except self.client.exceptions.NoSuchKey:
                return None

    def _copy_out(self, key: str, index: Index, name: str, target: Path) -> None:
        with self._reporting(f"fetch {key} from"):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=self._data_name(key, index, name))
            except self.client.exceptions.NoSuchKey:
                raise self._damaged(key, f"{name} is missing") from None
            with closing(answer["Body"]) as body:
                left = index.files[name].size
                with open(target, "wb") as file:
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        left -= len(chunk)
                        if left < 0:  # or an object without end would fill the disk
                            raise self._damaged(key, f"{name} has more bytes than {index.files[name].size}")
                        file.write(chunk)

    def _data_names(self, key: str, data: str | None) -> list[str]:
        """List the objects of an upload into a key, and of those that were cut off long ago."""
        old = datetime.now(UTC) - LEFTOVER_AGE
        return [
            item["Key"]
            for item in self._list(f"{key}/.data-")
            if (data and item["Key"].startswith(f"{self.prefix}{key}/{data}/")) or item["LastModified"] < old
        ]

    def _drop_data(self, key: str, index: Index) -> None:
        """Remove the files of an upload that lost or failed, as far as the server lets us."""
        with suppress(BotoCoreError, ClientError):
            for name in index.files:
                self.client.delete_object(Bucket=self.bucket, Key=self._data_name(key, index, name))

    def _list(self, start: str) -> Iterator[dict[str, Any]]:
        with self._reporting("read"):
            pages = self.client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + start):
                yield from page.get("Contents", [])

    def _index_name(self, key: str) -> str:
        return f"{self.prefix}{key}/{INDEX_NAME}"

    def _data_name(self, key: str, index: Index, name: str) -> str:
        return f"{self.prefix}{key}/{index.data}/{name}"

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise self._error(what, error) from None

    def _error(self, what: str, error: Exception) -> StoreError:
        """An error to be raised `from None`, so that no traceback has more than `advice_on` says."""
        return StoreError(f"cannot {what} {self.url} at {self.where}: {advice_on(error)}")
