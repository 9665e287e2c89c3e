"""How S3 servers are spoken to, and what their refusals mean."""

import re
from functools import cache
from typing import Any

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.loaders import Loader
from botocore.session import get_session

BUCKET_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
ENDPOINT_PATTERN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
CODE_PATTERN = re.compile(r"[A-Za-z0-9.]{1,64}")
CONFIG = Config(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 3},
    # Files are verified by SHA-256 here; newer checksum headers are unknown to many S3-compatible servers.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)
ADVICE = {
    "NoSuchBucket": "the bucket does not exist; create it or fix the store's url",
    "NotImplemented": "this server lacks conditional writes (If-None-Match); use one that has them (AWS, Ceph)",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION to it",
    "QuotaExceeded": "the storage quota is used up; delete something or have it raised",
    "InsufficientStorage": "the server is full; delete something or have it enlarged",
}


class _Descriptions(Loader):
    """What botocore ships of AWS's services, kept once it was read; whoever adds to the search path adds to a copy."""

    @property
    def search_paths(self) -> list[str]:
        """Where descriptions lie."""
        return list(super().search_paths)


@cache
def _descriptions() -> Loader:
    return _Descriptions()


def open_client(endpoint: str | None, config: Config) -> Any:
    """Make a client for S3; settings and credentials are looked up anew, descriptions are read once a process.

    Args:
        endpoint: The server when it is not AWS.
        config: How to speak to it.
    """
    session = get_session()
    session.register_component("data_loader", _descriptions())  # read anew they take a third of a second a client
    return Session(botocore_session=session).client("s3", endpoint_url=endpoint, config=config)


def advice_on(error: Exception) -> str:
    """Say what went wrong by its code alone, and the way out.

    The server's own text may repeat what a message must not hold, and so may that of an HTTP client.
    """
    code, status = "", 0
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        code = code if CODE_PATTERN.fullmatch(code) else type(error).__name__
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ADVICE:
        advice = ADVICE[code]
    elif status in (401, 403) or isinstance(error, NoCredentialsError | PartialCredentialsError):
        advice = (
            "credentials are missing or refused; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) "
            "to those of a user who may list, get, put and delete objects in this bucket"
        )
    elif isinstance(error, HTTPClientError) and isinstance(error.kwargs.get("error"), ValueError):
        advice = (
            "a credential holds a line break or another character that no request can carry; set AWS_ACCESS_KEY_ID "
            "and AWS_SESSION_TOKEN again without it"
        )
    elif isinstance(error, ConnectionError | HTTPClientError):
        advice = "the server cannot be reached; check that it runs and that AWS_ENDPOINT_URL is right"
    else:
        advice = f"{code or type(error).__name__}; check the url, the settings and the server's log"
    return advice
