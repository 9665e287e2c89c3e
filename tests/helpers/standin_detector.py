"""A stand-in for a celebrity detector: a program of the same contract that knows people by colour, and misbehaves.

Run as `python standin_detector.py MODE FILE`; its own number and the pictures' paths go to FILE.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

PEOPLE = {(255, 0, 0): "Ann_Other", (0, 255, 0): "Bob", (0, 0, 255): ""}
LABELS = ["Ann_Other", "Bob"]
SCORE = 0.75
ESCAPES = "\x1b[2J\x1b]52;c;cm0gLXJmIH4=\x07"  # clears a terminal, writes into its clipboard


def say(line: dict[str, Any] | str) -> None:
    print(line if isinstance(line, str) else json.dumps(line), flush=True)


def note(line: object) -> None:
    with open(sys.argv[2], "a") as log:
        print(line, file=log)


def faces_on(path: str) -> list[dict[str, Any]]:
    """Black is no face, yellow is Bob before Ann, and the rest is one face."""
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
        colour = picture.getpixel((0, 0))
    if colour == (0, 0, 0):
        return []
    if colour == (255, 255, 0):
        return [{"name": "Bob", "score": 1}, {"name": "Ann_Other", "score": 0.5}]
    return [{"name": PEOPLE[colour], "score": SCORE}]


def answer(mode: str, request: dict[str, Any]) -> None:
    number = request["id"]
    faces = faces_on(request["picture"])
    odd: dict[str, Any] = {
        "wrong-id": {"id": number + 1, "faces": faces},
        "error": {"id": number, "error": "the picture is upside down"},
        "shouts": {"id": number, "error": ESCAPES + "upside down " * 60_000},
        "no-faces": {"id": number},
        "high-score": {"id": number, "faces": [{"name": "Bob", "score": 1.5}]},
        "no-score": {"id": number, "faces": [{"name": "Bob"}]},
        "odd-name": {"id": number, "faces": [{"name": "Bob\x07", "score": 1}]},
        "second-face": {"id": number, "faces": [{"name": "Bob", "score": 1}, "Ann"]},
        "list": [number],
        "junk": "Loading weights...",
    }
    if mode == "dies":
        print("warning " * 10_000, file=sys.stderr)
        print("out of memory: half of the weights", file=sys.stderr)
        sys.exit(3)
    if mode == "paints":
        print(f"{ESCAPES}out of memory", file=sys.stderr)
        sys.exit(3)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "silent":
        time.sleep(60)
    if mode == "chatters":
        end = time.monotonic() + 60
        while time.monotonic() < end:
            print("still thinking" * 100, file=sys.stderr, flush=True)
    if mode == "talks-on":
        while True:
            sys.stdout.write("." * 65536)
    if mode == "loud":
        print("warning " * 100_000, file=sys.stderr)
    if mode == "closes-stderr":
        os.close(2)
        time.sleep(1)
    if mode == "twice":
        say(json.dumps({"id": number, "faces": faces}) + "\n" + json.dumps({"id": number, "faces": faces}))
        return
    say(odd.get(mode, {"id": number, "faces": faces}))


def main() -> None:
    mode = sys.argv[1]
    note(os.getpid())
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode in ("stubborn", "parent", "runaway"):
        child = subprocess.Popen(["sleep", "60"], start_new_session=mode == "runaway")
        note(child.pid)
    if mode == "tidies":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(note("tidied up")))
    if mode == "dies-at-once":
        sys.exit("the weights are not here")
    if mode == "silent-at-once":
        time.sleep(60)
    hello = {"detector": "standin", "version": "1.0", "labels": LABELS}
    if mode == "no-labels":
        del hello["labels"]
    if mode == "odd-version":
        hello["version"] = ESCAPES + "1.0" * 1_000_000
    if mode == "no-version":
        del hello["version"]
    if mode == "odd-labels":
        hello["labels"] = "Ann"
    if mode == "odd-label":
        hello["labels"] = ["Ann", 3]
    if mode == "deaf":
        os.close(0)
    say("Hello!" if mode == "junk-at-once" else hello)
    if mode == "leaves":
        sys.exit(4)
    if mode == "deaf":
        time.sleep(0.5)
        os._exit(5)
    for line in sys.stdin:
        request = json.loads(line)
        note(request["picture"])
        answer(mode, request)
    note("input closed")
    if mode in ("stubborn", "tidies"):
        time.sleep(60)


if __name__ == "__main__":
    main()
