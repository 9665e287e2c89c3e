"""How answers are called: none is offered as an interface for programs, and what draws waits in one line."""

from typing import Any

import gradio as gr

QUICK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None, "show_progress": "hidden"}
LATEST: dict[str, Any] = {**QUICK, "trigger_mode": "always_last"}  # of a slider that is moved, where it ends


def slow(on: gr.components.Component) -> dict[str, Any]:
    """Returns the options of what draws; how far it got is shown on one part of the page."""
    return {
        "api_visibility": "private",
        "concurrency_limit": 4,
        "concurrency_id": "drawing",
        "show_progress_on": on,
    }


def slot(text: str = "") -> gr.HTML:
    """Returns a place for messages, pictures or tables; an empty one takes no room."""
    return gr.HTML(f'<p class="cpe-note">{text}</p>' if text else "", elem_classes="cpe-slot")
