"""Which store an address means."""

import re
from pathlib import Path
from urllib.parse import unquote

from artifacts.stores.store import Store

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # "s3:/…" is a typing error, not the name of a folder


def open_store(url: str, *, endpoint_url: str | None = None) -> Store:
    """Open a store by its address; nothing is created or contacted yet.

    Args:
        url: "s3://bucket/prefix", "file:///absolute/path", "file://relative/path" or a plain path.
        endpoint_url: S3 only: the server, when it is not AWS. None takes AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL
            from the environment. Credentials come from boto3's own chain (environment, files, roles) only.

    Returns:
        A `FolderStore` or an `S3Store`.

    Raises:
        ValueError: Another scheme, an empty path or bucket, or credentials inside an address.
        StoreError: boto3 cannot be set up (a profile that does not exist).
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        from artifacts.stores.s3 import S3Store

        return S3Store(rest, endpoint_url=endpoint_url)
    if not separator and SCHEME.match(url):
        raise ValueError(f"url must be a path, file://… or s3://…, but '//' is missing after {url.partition(':')[0]!r}")
    if separator and scheme != "file":
        raise ValueError(f"url must be a path, file://… or s3://…, got the scheme {scheme!r}; use one of these")
    if separator and "@" in rest.partition("/")[0]:
        raise ValueError("url must be file:// and a path, without a user or a password in it; write the path alone")
    from artifacts.stores.folder import FolderStore

    return FolderStore(Path(unquote(rest) if separator else url))
