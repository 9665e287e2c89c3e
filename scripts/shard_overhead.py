"""Measures what a shard of pictures costs besides drawing: files, hashes and the store (see docs/scaling.md).

`python scripts/shard_overhead.py [--side 512]` draws one shard of list emoji in a folder of its own. With --side its
pictures are noise of that size, as hard to pack as pictures can be, in place of drawn ones.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, help="pixels; pictures of noise in place of drawn ones")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CPE_WORK"] = folder
        import cpe.models.drawing
        from tasks.draw import artist, draw_shard, shards
        from tasks.evaluation.look import pictures_folder
        from tasks.here.places import Places
        from tasks.prepare import prepare_concepts

        places = Places.from_environment()
        plan = prepare_concepts(places, "emoji")
        shard = next(shards(plan, None))
        real, spent = cpe.models.drawing.generate, 0.0

        def noise(pipe: Any, jobs: Any, profile: Any) -> Iterator[tuple[Any, Image.Image]]:
            for job in jobs:
                pixels = np.random.default_rng(job.seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
                yield job, Image.fromarray(pixels)

        def timed(pipe: Any, jobs: Any, profile: Any, **options: Any) -> Iterator[tuple[Any, Image.Image]]:
            nonlocal spent
            pictures = (noise if side else real)(pipe, jobs, profile)
            while True:
                started = time.perf_counter()
                pair = next(pictures, None)
                spent += time.perf_counter() - started
                if pair is None:
                    return
                yield pair

        cpe.models.drawing.generate = timed  # type: ignore[assignment]
        with artist(places, plan, None) as pipe:
            started = time.perf_counter()
            draw_shard(places, plan, None, shard, pipe)
            whole = time.perf_counter() - started
        started = time.perf_counter()
        pictures_folder(places, plan, None, shard)
        fetched = time.perf_counter() - started
    print(f"{len(shard.rows)} pictures in {places.store_url.split(':')[0]} store: drawing {spent:.2f} s, all else "
          f"{whole - spent:.2f} s, fetching and verifying {fetched:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
