"""The page's server: uvicorn on one address, the door before the page."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from flows.page.door import Door, check_token
from tasks.page.opening import Opened

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
LARGEST_UPLOAD = "2mb"
END_S = 1  # for answers that are under way when the page ends
MISSING = "the page needs Gradio, which is an extra: pip install 'concept-pinpoint-eraser[ui]' (in a checkout: '.[ui]')"


def check_extra() -> None:
    """Loads Gradio, which tells nobody that it was.

    Raises:
        ImportError: it is not installed; says how to do it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(MISSING) from error


def listen(host: str, port: int) -> socket.socket:
    """Takes an address for the page.

    Raises:
        OSError: it is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except OSError as error:
        taken.close()
        raise OSError(
            f"cannot listen on {host}, port {port} ({error.strerror}); choose another one by --port"
        ) from None
    return taken


def serve(
    opened: Opened, scratch: Path, taken: socket.socket, *, token: str | None, ready: Callable[[str], object]
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        opened: what the page is about.
        scratch: folder of uploads and downloads.
        taken: the address, as `listen` gives it.
        token: what visitors must bring; see `check_token`.
        ready: is told the page's address once it is about to answer.

    Raises:
        ValueError: other machines reach the page, and there is no token.
    """
    import uvicorn

    host, port = taken.getsockname()[:2]
    token = check_token(host, token)
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)  # also what visitors send: gone with the page
    app = application(opened, scratch, token)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=END_S, ws="none")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the folder is taken away then too
    taken.listen()  # whoever comes from now on waits until the page answers
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    uvicorn.Server(config).run(sockets=[taken])


def application(opened: Opened, scratch: Path, token: str | None) -> Door:
    """Returns the page behind its door."""
    import gradio as gr
    from fastapi import FastAPI

    from flows.page.answers import Answers
    from flows.page.layout import build

    page = build(Answers(opened, scratch)).queue(max_size=64, default_concurrency_limit=4)
    theme = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"],
    ).set(  # the theme's own greys are too faint to read
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        css_paths=Path(__file__).with_name("page.css"),
        theme=theme,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
    )
    return Door(app, token, NAMES if token is None else None)
