"""The inside of `faults`: forks runs of `cpe`, in which hooks kill the process or write down what is made.

One process imports everything once and forks every run, which saves each of them the seconds that imports take.
"""

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

PRELOADED = (
    "boto3", "cpe.embedded.observers", "cpe.methods.pinpoint.eraser", "cpe.methods.pinpoint.training", "flows.cli.app",
    "flows.erase_and_evaluate",
    "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store",
)  # fmt: skip
LONGEST_WAIT_S = 300.0
HOOKS: dict[str, Callable[..., None]] = {}


def hook(function: Callable[..., None]) -> Callable[..., None]:
    """Lets a run ask for the function by its name."""
    HOOKS[function.__name__] = function
    return function


def die() -> None:
    """Ends this process as the system does: at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(path: str, wrapper: Callable[..., Any]) -> None:
    """Puts `wrapper(real, *arguments)` in the place of "module:name" or "module:Class.name"."""
    module, _, name = path.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    real = getattr(owner, name)
    setattr(owner, name, lambda *given, **options: wrapper(real, *given, **options))


def at_call(path: str, number: int, act: Callable[..., Any], counts: Callable[..., bool] = lambda *given: True) -> None:
    """Does something else at one call of a function, of those that count."""
    seen = 0

    def wrapped(real: Callable[..., Any], *given: Any, **options: Any) -> Any:
        nonlocal seen
        seen += counts(*given)
        return act(real, *given, **options) if seen == number and counts(*given) else real(*given, **options)

    wrap(path, wrapped)


@hook
def die_before(path: str, number: int = 1) -> None:
    """Dies when a function is called for so many times."""
    at_call(path, number, lambda *given, **options: die())


@hook
def die_after(path: str, number: int = 1) -> None:
    """Dies when a function has done its work so many times."""
    at_call(path, number, lambda real, *given, **options: (real(*given, **options), die()))


@hook
def die_writing_rows(number: int) -> None:
    """Dies in the middle of a write to the embedding cache."""

    def half(real: Callable[..., Any], file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        die()

    at_call("cpe.models.embeddings:_write", number, half)


@hook
def die_copying(pattern: str, number: int = 1) -> None:
    """Dies when half of a file has come into the store."""

    def half(real: Callable[..., Any], source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
        die()

    def counts(source: Path, target: Path) -> bool:
        return "/store/" in str(target) and fnmatch(str(target), pattern)

    at_call("artifacts.stores.folder:_copy_file", number, half, counts)


@hook
def die_saving_picture(number: int) -> None:
    """Dies when half of a picture's file is written."""

    def half(real: Callable[..., Any], picture: Any, path: Path, **options: Any) -> None:
        real(picture, path, **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        die()

    at_call("PIL.Image:Image.save", number, half, lambda picture, path, **options: isinstance(path, Path))


@hook
def die_training(stage: int, phase: str, step: int) -> None:
    """Dies after one step of the training."""

    def counts(training: Any, record: Any, watch: Any) -> bool:
        return (record.stage, record.phase, record.step) == (stage, phase, step)

    at_call("cpe.methods.pinpoint.training:Training._note", 1, lambda real, *given: (real(*given), die()), counts)


@hook
def wait_before(path: str, signal_path: str, number: int = 1) -> None:
    """Waits at a function's call until a file is there, and says so with a file of its own."""

    def waiting(real: Callable[..., Any], *given: Any, **options: Any) -> Any:
        Path(signal_path + ".reached").touch()
        end = time.monotonic() + LONGEST_WAIT_S
        while not Path(signal_path).exists():
            assert time.monotonic() < end, "whoever asked has forgotten this run"
            time.sleep(0.02)
        return real(*given, **options)

    at_call(path, number, waiting)


@hook
def write_down(path: str) -> None:
    """Adds a line to a file for everything that is made: prompts, steps, pictures, observations, artifacts."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shard = ""

    def made(*what: Any) -> None:
        os.write(file, (json.dumps(what) + "\n").encode())

    def append(real: Callable[..., Any], cache: Any, prompts: list[str], *given: Any) -> None:
        real(cache, prompts, *given)
        for prompt in prompts:
            made("prompt", prompt)

    def note(real: Callable[..., Any], training: Any, record: Any, watch: Any) -> None:
        made("step", *training.identity["concepts"], record.taken)
        real(training, record, watch)

    def draw_shard(real: Callable[..., Any], places: Any, plan: Any, bundle: Any, of: Any, *given: Any) -> None:
        nonlocal shard
        shard = of.address
        real(places, plan, bundle, of, *given)

    def generate(real: Callable[..., Any], *given: Any, **options: Any) -> Any:
        for job, picture in real(*given, **options):
            made("picture", shard, job.picture_id)
            yield job, picture

    def observed(real: Callable[..., Any], places: Any, key: str, *given: Any) -> None:
        made("seen", key)
        real(places, key, *given)

    def put(real: Callable[..., Any], store: Any, key: str, folder: Path) -> bool:
        stored: bool = real(store, key, folder)
        if stored:
            made("stored", key)
        return stored

    wrap("cpe.models.embeddings:EmbeddingCache._append", append)
    wrap("cpe.methods.pinpoint.training:Training._note", note)
    wrap("tasks.draw:draw_shard", draw_shard)
    wrap("cpe.models.drawing:generate", generate)
    wrap("tasks.evaluation.look:store_values", observed)
    wrap("tasks.evaluation.moved:store_values", observed)
    wrap("artifacts.stores.folder:FolderStore.put", put)
    wrap("artifacts.stores.s3:S3Store.put", put)


def run(order: dict[str, Any]) -> int:
    """Does one run in this process and returns its exit code."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.update(order["environment"])
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import Settings

    from flows.cli.app import app

    for name, *given in order["hooks"]:
        HOOKS[name](*given)
    with SettingsContext(profile=get_settings_context().profile, settings=Settings()):
        try:
            app(order["arguments"])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def supervise(order: dict[str, Any]) -> None:
    """Forks a run and writes down its pid, and its exit code once it has ended."""
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            code = run(order)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    write(Path(order["log"]).with_suffix(".pid"), str(worker))
    _, status = os.waitpid(worker, 0)
    write(Path(order["log"]).with_suffix(".code"), str(os.waitstatus_to_exitcode(status)))


def write(path: Path, text: str) -> None:
    path.with_suffix(path.suffix + ".part").write_text(text)
    path.with_suffix(path.suffix + ".part").replace(path)


def import_everything() -> None:
    """Imports what runs import, also what they import late."""
    import torch

    from cpe.models.loading import load_pipeline

    torch.set_num_threads(1)  # a process with more of them could not be forked
    for name in PRELOADED:
        importlib.import_module(name)
    load_pipeline("embedded", device="cpu")


def main() -> None:
    """Forks a run for every line of the standard input."""
    import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            supervise(json.loads(line))
            os._exit(0)


if __name__ == "__main__":
    main()
