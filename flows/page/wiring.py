"""How answers are called: none is offered as an interface for programs, and what draws waits in one line."""

from typing import Any

SLOW: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 4, "concurrency_id": "drawing"}
QUICK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
