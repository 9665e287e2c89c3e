"""`cpe generate`: pictures and videos, with or without concepts erased."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal.command import places_here
from flows.terminal.gates import GatesOption, load_gates


class Form(StrEnum):
    """How gates erase."""

    attached = "attached"
    embeddings = "embeddings"


def generate(
    prompts: Annotated[list[str], typer.Argument(help="One or several prompts.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("work/generated"),
    gates: GatesOption = None,
    model: Annotated[str, typer.Option(help="Base model: embedded, a folder, or a hub name.")] = "embedded",
    profile: Annotated[
        str | None, typer.Option(help="How pictures are made; default: embedded for that model, else cpe.")
    ] = None,
    form: Annotated[
        Form, typer.Option("--as", help="How gates erase: attached to the network, or by changed prompt embeddings.")
    ] = Form.attached,
    seeds: Annotated[int, typer.Option(min=1, help="Pictures a prompt: seeds 0, 1, ...")] = 1,
) -> None:
    """Draw pictures, with or without concepts erased."""
    from cpe.methods.pinpoint.eraser import Eraser
    from cpe.models.drawing import PictureJob
    from cpe.models.drawing import generate as draw
    from cpe.models.videos import can_write, write_video
    from cpe.terms.profiles import PROFILES
    from tasks.here.progress import progress

    profile = profile or ("embedded" if model == "embedded" else "cpe")
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(PROFILES)}")
    eraser = load_gates(gates) if gates else None
    if form is Form.embeddings and not isinstance(eraser, Eraser):
        raise ValueError("--as embeddings is of CPE's gates; name some by --gates")
    places = places_here()
    pipe, made = places.loaded(model), PROFILES[profile]
    jobs = [
        PictureJob(f"{row * seeds + seed:05d}{'' if frame is None else f'-f{frame:03d}'}", prompt, seed, frame=frame)
        for row, prompt in enumerate(prompts)
        for seed in range(seeds)
        for frame in made.kept or (None,)
    ]
    index = [
        {"path": f"{job.picture_id}.png", "prompt": job.prompt, "seed": job.seed}
        | ({} if job.frame is None else {"frame": job.frame})
        for job in jobs
    ]

    def keep(job: PictureJob, frames: Sequence[Any]) -> None:
        if can_write():
            write_video(out / f"{job.picture_id.partition('-')[0]}.mp4", frames, made.frames_per_second)

    erasing: Any = eraser.attached(pipe) if eraser else nullcontext()
    if form is Form.embeddings and isinstance(eraser, Eraser):
        erasing = eraser.encoding(pipe, cache=places.work / "bases")
    with erasing, progress("drawing", len(jobs), "picture") as done:
        out.mkdir(parents=True, exist_ok=True)
        (out / "pictures.json").write_text(json.dumps(index, indent=1, ensure_ascii=False))
        for job, picture in draw(pipe, jobs, made, progress=done, videos=keep):
            picture.save(out / f"{job.picture_id}.png")
    print(f"{len(jobs)} pictures in {out}, listed in pictures.json")
