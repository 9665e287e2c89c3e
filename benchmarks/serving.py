"""Requests a second and the slowest in a hundred of `cpe serve`, by 1, 8 and 32 clients, every answer checked.

    python -m benchmarks.serving cpe-emoji@champion --json

starts the server, lets clients ask one after the other for pictures of their own prompts and seeds, and compares each
answer with the picture that the same prompt and seed give alone: an answer to somebody else's request would show. The
version must be one of the embedded model.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from PIL import Image

CLIENTS = (1, 8, 32)
PROMPTS = ("a picture of a cat", "a castle", "a drawing of a tulip", "an emoji of a bus", "a small icon of a fox")
SEEDS = 16
ALIKE = 2  # of 255: rounding of one batch size and another


def ask(url: str, number: int) -> tuple[int, float, bytes]:
    """Returns the status, the seconds and the body of one request."""
    started = time.perf_counter()
    wanted = {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number // len(PROMPTS) % SEEDS}
    answer = httpx.post(f"{url}/generate", json=wanted, timeout=600)
    return answer.status_code, time.perf_counter() - started, answer.content


def load(url: str, clients: int, requests: int, alone: Sequence[Any]) -> dict[str, Any]:
    """Returns one row: so many clients, each asking anew once it is answered."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda number: ask(url, number), range(requests)))
    took = time.perf_counter() - started
    wrong = sum(
        status == 200 and np.abs(_pixels(body) - alone[number % len(alone)]).max() > ALIKE
        for number, (status, _, body) in enumerate(answers)
    )
    seconds = [each for status, each, _ in answers if status == 200]
    return {
        "clients": clients,
        "requests": requests,
        "answered": len(seconds),
        "refused": requests - len(seconds),
        "wrong": int(wrong),
        "per_second": round(len(seconds) / took, 2),
        "median_ms": round(1000 * float(np.median(seconds)), 1),
        "p99_ms": round(1000 * float(np.quantile(seconds, 0.99)), 1),
    }


def pictures_alone(reference: str) -> list[Any]:
    """Returns what each prompt and seed gives by itself, with the same version attached."""
    from cpe import Erased, fetch, load_pipeline
    from cpe.models.drawing import PictureJob, generate
    from cpe.terms.profiles import PROFILES

    pipe = load_pipeline("embedded", device="cpu")
    numbers = range(len(PROMPTS) * SEEDS)
    jobs = [PictureJob(str(n), PROMPTS[n % len(PROMPTS)], n // len(PROMPTS)) for n in numbers]
    with Erased.load(fetch(f"models:/{reference}")).attached(pipe):
        return [np.asarray(next(generate(pipe, [job], PROFILES["embedded"]))[1], float) for job in jobs]


def measure(reference: str, requests: int) -> list[dict[str, Any]]:
    """Returns a row a number of clients."""
    alone = pictures_alone(reference)
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", "serve", reference, "--port", "0", "--profile", "embedded"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            return [load(url, clients, requests, alone) for clients in CLIENTS]
        finally:
            server.send_signal(signal.SIGTERM)


def _pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)), float)


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", nargs="?", default="cpe-emoji@champion")
    parser.add_argument("--requests", type=int, default=160, help="of each row")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = measure(given.reference, given.requests)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
