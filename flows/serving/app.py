"""The server's addresses: pictures, health, version and metrics; one JSON object in, an answer out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from cpe import __version__
from cpe.evaluation.prompt_files import LONGEST_PROMPT
from tasks.page.bench import HIGHEST_SEED, Asked
from tasks.serving.desk import Closed, Desk, Full
from tasks.serving.following import Following

RETRY_S = 1
VERSION_HEADER, SECONDS_HEADER = "X-CPE-Version", "X-CPE-Seconds"


class Wanted(BaseModel):
    """What a request asks for."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT)
    seed: int = Field(0, ge=0, le=HIGHEST_SEED)


class Figures:
    """What is counted, for Prometheus."""

    def __init__(self, desk: Desk) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("cpe_requests", "Answers, by status.", ["status"], registry=self.registry)
        self.seconds = Histogram("cpe_request_seconds", "From coming to answer.", registry=self.registry)
        self.together = Histogram(
            "cpe_batch_pictures", "Pictures drawn together.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.swaps = Counter("cpe_version_changes", "Versions taken on.", registry=self.registry)
        waiting = Gauge("cpe_requests_waiting", "Requests that wait for their turn.", registry=self.registry)
        waiting.set_function(lambda: desk.waiting)
        trouble = Gauge("cpe_version_trouble", "1 while a version could not be taken on.", registry=self.registry)
        trouble.set_function(lambda: float(bool(desk.trouble)))


def application(desk: Desk, following: Following, figures: Figures) -> FastAPI:
    """Returns the application over a desk that draws and what it follows."""
    app = FastAPI(title="cpe serve", version=__version__, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def count(request: Request, following_handler: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await following_handler(request)
        if request.url.path == "/generate":
            figures.requests.labels(status=str(answer.status_code)).inc()
        return answer

    @app.post("/generate")
    async def generate(wanted: Wanted) -> Response:
        try:
            answer = await asyncio.wrap_future(desk.ask(Asked(wanted.prompt, wanted.seed)))
        except (Full, Closed) as refused:
            return _told(503, str(refused), {"Retry-After": str(RETRY_S)})
        except ValueError as error:
            return _told(422, str(error))
        except RuntimeError as error:
            return _told(500, str(error))
        figures.seconds.observe(answer.seconds)
        figures.together.observe(answer.together)
        headers = {VERSION_HEADER: answer.version, SECONDS_HEADER: f"{answer.seconds:.3f}"}
        return Response(answer.png, media_type="image/png", headers=headers)

    @app.get("/health")
    async def health() -> Response:
        trouble = desk.trouble or following.trouble
        well = desk.alive and bool(desk.version)
        told = {"ok": well, "version": desk.version, "waiting": desk.waiting, "trouble": trouble}
        return JSONResponse(told, 200 if well else 503)

    @app.get("/version")
    async def version() -> dict[str, Any]:
        return {"cpe": __version__, "version": desk.version, "profile": desk.profile.name}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _told(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status, headers)
