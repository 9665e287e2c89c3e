"""What erases, as a folder that model hubs know: weights, configuration, card; pushed, fetched, verified."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1
REPO = re.compile(r"^[\w.-]+/[\w.-]+$")
KEPT = ["*.safetensors", CONFIG, CARD]


def write_config(folder: Path, *, method: str, concepts: Sequence[str], base_model: str, **more: Any) -> None:
    """Writes what the folder's weights are, with their hashes; the weights are there already."""
    files = {path.name: _hash_of(path) for path in sorted(folder.glob("*.safetensors"))}
    told = {"library_name": "cpe", "format": FORMAT, "method": method, "base_model": base_model, **more}
    config = {**told, "concepts": list(concepts), "sha256": files}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_folder(folder: Path, name: str) -> Mapping[str, Any]:
    """Returns a shared folder's configuration once its weights are those that it names.

    Raises:
        ValueError: it has none, is of a later format, or its weights are missing or others.
    """
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        files, written = dict(config["sha256"]), int(config["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{name} holds no {CONFIG} of cpe; name a repository that `cpe push` or push_to_hub wrote"
        ) from None
    if written > FORMAT:
        raise ValueError(f"{name} was written in format {written}, this release reads {FORMAT}; install a newer cpe")
    for file, expected in files.items():
        path = folder / Path(file).name
        if not path.is_file() or _hash_of(path) != expected:
            raise ValueError(f"{name}: {file} is missing or not the one that {CONFIG} names; fetch it again")
    return config


def push(folder: Path, repo: str, *, private: bool, message: str, revision: str | None = None) -> str:
    """Pushes a folder to a model repository, made if it is not there; returns the commit's address.

    Raises:
        ValueError: the name is none of a repository.
        OSError: the hub refuses, or cannot be reached.
    """
    _check_repo(repo)
    from huggingface_hub import HfApi

    api = HfApi()
    with _refusals(repo, "push to"):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, revision=revision, allow_patterns=KEPT
        )
    return str(getattr(done, "commit_url", done))


def pull(repo: str, revision: str | None = None, folder: Path | None = None) -> Path:
    """Returns a verified copy of a repository's folder.

    Args:
        repo: "owner/name".
        revision: branch, tag or commit; None is the default branch.
        folder: where the copy goes; None is the hub's cache.

    Raises:
        ValueError: the name is none of a repository, or its files are not those that it names.
        OSError: the hub refuses, or cannot be reached.
    """
    _check_repo(repo)
    from huggingface_hub import snapshot_download

    with _refusals(repo, "fetch from"):
        found = Path(snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=KEPT))
    check_folder(found, repo)
    return found


class _refusals:  # noqa: N801 - a with block
    """Tells the hub's errors in one sentence."""

    def __init__(self, repo: str, what: str) -> None:
        self.repo, self.what = repo, what

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import httpx
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        if isinstance(error, HfHubHTTPError | LocalTokenNotFoundError | httpx.HTTPError):
            text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise OSError(
                f"cannot {self.what} {self.repo}: {text}; check the name, the network, and HF_TOKEN (`hf auth login`)"
            ) from None


def _check_repo(repo: str) -> None:
    if not REPO.match(repo):
        raise ValueError(f"{repo!r} is no repository; give owner/name")


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
