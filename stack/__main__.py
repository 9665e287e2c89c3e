"""`python -m stack up`, `down` or `status`."""

import argparse
import sys

from stack.control import Stack
from stack.settings import Settings, StackError
from stack.signals import interrupt_on_end

COMMANDS = ("up", "down", "status")
INTERRUPTED = 130


def main() -> int:
    """Runs one command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args().command
    interrupt_on_end()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        stack = Stack(Settings.from_environment())
        if command == "status":
            return 0 if stack.status() else 1
        stack.up() if command == "up" else stack.down()
    except (StackError, OSError) as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stack: interrupted; what this command had started is stopped again", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
