"""The cache of prompt embeddings: every prompt encoded once, by whatever process, and never a wrong row."""

import hashlib
import json
import multiprocessing
import os
import random
import resource
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cpe.models.embedding_values import EmbeddingError
from cpe.models.embeddings import INDEX_NAME, ROWS_NAME, EmbeddingCache
from cpe.models.text import encode_prompts

TOKENS, WIDTH = 5, 6
PROMPTS = [f"a picture of thing {number}" for number in range(20)]


def embedding(prompt: str, tokens: int = TOKENS, width: int = WIDTH) -> torch.Tensor:
    """What the pretended text encoder gives for a prompt, (T, D), exact in half precision."""
    start = int(hashlib.sha256(prompt.encode()).hexdigest()[:6], 16)
    return ((start + torch.arange(tokens * width)) % 2039).view(tokens, width).float()


class Encoder:
    """A pretended text encoder that writes down, a batch a line, what it is asked for."""

    def __init__(self, log: Path, *, pause_s: float = 0.0, tokens: int = TOKENS, width: int = WIDTH) -> None:
        self.log, self.pause_s, self.shape = log, pause_s, (tokens, width)

    def __call__(self, prompts):
        with open(self.log, "a") as log:
            log.write(json.dumps(list(prompts)) + "\n")
        time.sleep(self.pause_s)
        return torch.stack([embedding(prompt, *self.shape) for prompt in prompts])

    @property
    def batches(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def encoded(self) -> Counter:
        return Counter(prompt for batch in self.batches for prompt in batch)


@pytest.fixture
def encoder(tmp_path):
    return Encoder(tmp_path / "encoded")


@pytest.fixture
def filled(tmp_path, encoder):
    """A folder with all prompts in it, written three at a time; the encoder's notes begin afterwards."""
    EmbeddingCache(tmp_path / "cache").fill(PROMPTS, encoder, batch=3)
    encoder.log.unlink()
    return tmp_path / "cache"


def require_right(cache: EmbeddingCache, prompts=PROMPTS, tokens: int = TOKENS, width: int = WIDTH) -> None:
    rows, table = cache.rows(prompts), cache.table
    assert table.dtype == torch.float16
    for prompt, row in zip(prompts, rows, strict=True):
        assert torch.equal(table[row].float(), embedding(prompt, tokens, width)), prompt


@pytest.fixture(scope="module")
def processes():
    """Starts real processes that have torch loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "cpe.models.embeddings"])
    return context


def write_large(folder: Path, log: Path, prompts: list[str], pause_s: float) -> None:
    EmbeddingCache(folder).fill(prompts, Encoder(log, pause_s=pause_s, tokens=77, width=384), batch=8)


def write_together(folder: Path, log: Path, prompts: list[str], barrier, counts) -> None:
    done: list[int] = []
    cache = EmbeddingCache(folder)
    barrier.wait()
    cache.fill(prompts, Encoder(log, pause_s=0.005), batch=3, progress=done.append)
    counts.put(sum(done))


def write_on_little_disk(folder: Path, most_bytes: int, width: int, messages) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    def encode(prompts):
        return torch.stack([embedding(prompt, width=width) for prompt in prompts])

    try:
        EmbeddingCache(folder).fill(PROMPTS, encode, batch=3)
    except EmbeddingError as error:
        messages.put(str(error))


def test_rows_are_the_pipelines_embeddings_in_half_precision(tmp_path):
    from helpers.tiny import tiny_pipeline  # here, or every writer's process would load all of diffusers

    pipe = tiny_pipeline()
    prompts = ["a tiger", "", "an owl in the style of noto", "a word " * 100]
    cache = EmbeddingCache(tmp_path / "cache")
    cache.fill(prompts, partial(encode_prompts, pipe))
    assert torch.equal(cache.table[cache.rows(prompts)], encode_prompts(pipe, prompts).half())
    assert cache.table.shape == (4, 77, 32)


def test_readers_share_what_was_encoded_before_and_after_they_opened(tmp_path, encoder):
    early = EmbeddingCache(tmp_path / "cache")
    assert early.missing(PROMPTS) == PROMPTS
    EmbeddingCache(tmp_path / "cache").fill(PROMPTS[:7], encoder)
    table = early.table
    EmbeddingCache(tmp_path / "cache").fill(PROMPTS, encoder)
    require_right(early)
    require_right(EmbeddingCache(tmp_path / "cache"))
    assert torch.equal(table, early.table[:7]), "a table in use stays as it was"


def test_only_missing_prompts_are_encoded_and_progress_counts_them(tmp_path, encoder):
    cache, done = EmbeddingCache(tmp_path / "cache"), []
    cache.fill(PROMPTS[5:9], encoder)
    cache.fill([*PROMPTS, *PROMPTS, PROMPTS[0]], encoder, batch=6, progress=done.append)
    assert encoder.encoded == Counter(PROMPTS)
    assert done == [10, 6, 4], "four of the first ten were there"
    cache.fill(PROMPTS, encoder)
    assert encoder.encoded == Counter(PROMPTS)
    require_right(cache, PROMPTS[::-1])


def test_a_prompt_that_is_not_there_is_named(filled):
    with pytest.raises(EmbeddingError, match=r"lacks 'a new one' or it is damaged; fill it first"):
        EmbeddingCache(filled).rows([PROMPTS[0], "a new one"])
    with pytest.raises(EmbeddingError, match="holds nothing yet"):
        EmbeddingCache(filled.with_name("none")).table  # noqa: B018


def test_changes_to_a_table_stay_out_of_the_cache(filled):
    table = EmbeddingCache(filled).table
    table.zero_()
    require_right(EmbeddingCache(filled))


def test_killed_writers_lose_the_batch_in_hand_at_most(tmp_path, processes):
    prompts = [f"prompt {number}" for number in range(400)]
    chance, logs, killed = random.Random(0), [], 0
    while killed < 12:
        logs.append(tmp_path / f"log-{len(logs)}")
        writer = processes.Process(target=write_large, args=(tmp_path / "cache", logs[-1], prompts, 0.02))
        writer.start()
        while writer.is_alive() and not logs[-1].exists():
            time.sleep(0.001)
        writer.join(chance.uniform(0, 0.25))
        killed += writer.is_alive()
        writer.kill()
        writer.join()
        if writer.exitcode == 0:
            break
        sound = EmbeddingCache(tmp_path / "cache")
        kept = [prompt for prompt in prompts if prompt not in sound.missing(prompts)]
        if kept:
            require_right(sound, kept, 77, 384)
    assert killed >= 5, "the case needs writers to kill"
    last = Encoder(tmp_path / "last", tokens=77, width=384)
    cache = EmbeddingCache(tmp_path / "cache")
    cache.fill(prompts, last, batch=8)
    require_right(cache, prompts, 77, 384)
    finished = Counter()  # batches after which a writer went on to another one
    for log in logs:
        finished.update(prompt for batch in Encoder(log).batches[:-1] for prompt in batch)
    assert set(finished.values()) == {1}
    assert not set(finished) & set(last.encoded)
    assert len(cache.table) == len(prompts), "unfinished rows are written over"


def test_two_writers_at_once_encode_each_prompt_once(tmp_path, processes):
    prompts = [f"prompt {number}" for number in range(150)]
    barrier, counts, logs = processes.Barrier(2), processes.Queue(), [tmp_path / "log-0", tmp_path / "log-1"]
    orders = [prompts[:100], prompts[50:] + prompts[:20]]
    writers = [
        processes.Process(target=write_together, args=(tmp_path / "cache", log, order, barrier, counts))
        for log, order in zip(logs, orders, strict=True)
    ]
    for writer in writers:
        writer.start()
    assert sorted(counts.get(timeout=60) for _ in writers) == [100, 120], "whoever encoded them"
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    both = [Encoder(log).encoded for log in logs]
    assert both[0] + both[1] == Counter(prompts)
    assert all(both), "the case needs both to have written"
    cache = EmbeddingCache(tmp_path / "cache")
    require_right(cache, prompts)
    assert len(cache.table) == len(prompts)


@pytest.mark.parametrize("torn", [b'["0123', b'["' + b"0" * 64 + b'", 123]', b"\0" * 50])
def test_a_torn_last_line_is_ignored_and_cut_off(filled, encoder, torn):
    with open(filled / INDEX_NAME, "ab") as index:
        index.write(torn)
    cache = EmbeddingCache(filled)
    require_right(cache)
    cache.fill([*PROMPTS, "a new one"], encoder)
    assert encoder.batches == [["a new one"]]
    require_right(EmbeddingCache(filled), [*PROMPTS, "a new one"])
    assert [json.loads(line) for line in (filled / INDEX_NAME).read_text().splitlines()]


def test_a_torn_header_begins_the_cache_again(filled, encoder):
    index = filled / INDEX_NAME
    index.write_bytes(index.read_bytes()[:20])
    cache = EmbeddingCache(filled)
    assert cache.missing(PROMPTS) == PROMPTS
    cache.fill(PROMPTS, encoder)
    require_right(EmbeddingCache(filled))


def test_rows_that_no_line_names_are_written_over(filled, encoder):
    size = (filled / ROWS_NAME).stat().st_size
    with open(filled / ROWS_NAME, "ab") as rows:
        rows.write(os.urandom(1000))
    cache = EmbeddingCache(filled)
    require_right(cache)
    cache.fill(["a new one"], encoder)
    require_right(EmbeddingCache(filled), [*PROMPTS, "a new one"])
    assert (filled / ROWS_NAME).stat().st_size == size * 21 // 20


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found_and_its_prompt_encoded_again(filled, encoder):
    flip(filled / ROWS_NAME, 7 * 2 * TOKENS * WIDTH + 11)
    cache = EmbeddingCache(filled)
    with pytest.raises(EmbeddingError, match="'a picture of thing 7' or it is damaged"):
        cache.rows(PROMPTS)
    cache.fill(PROMPTS, encoder)
    assert encoder.batches == [[PROMPTS[7]]]
    require_right(cache)
    require_right(EmbeddingCache(filled))
    assert len(EmbeddingCache(filled).table) == len(PROMPTS) + 1


def test_a_row_encoded_again_by_another_is_looked_at_anew(filled, encoder):
    cache = EmbeddingCache(filled)
    require_right(cache)
    flip(filled / ROWS_NAME, 0)
    EmbeddingCache(filled).fill(PROMPTS, encoder)
    flip(filled / ROWS_NAME, -1)
    assert cache.missing(PROMPTS) == [PROMPTS[0]]


def test_no_flipped_bit_of_the_index_gives_a_wrong_row(filled, encoder):
    index = filled / INDEX_NAME
    sound = index.read_bytes()
    for position in range(sound.index(b"\n") + 1, len(sound), 5):
        index.write_bytes(sound)
        flip(index, position)
        cache = EmbeddingCache(filled)
        kept = [prompt for prompt in PROMPTS if prompt not in cache.missing(PROMPTS)]
        require_right(cache, kept)
    cache.fill(PROMPTS, encoder)
    require_right(EmbeddingCache(filled))


def test_a_file_of_rows_cut_short_is_filled_up_again(filled, encoder):
    os.truncate(filled / ROWS_NAME, 4 * 2 * TOKENS * WIDTH + 1)
    cache = EmbeddingCache(filled)
    assert len(cache.table) == 4
    assert cache.missing(PROMPTS) == PROMPTS[4:]
    cache.fill(PROMPTS, encoder)
    require_right(EmbeddingCache(filled))
    (filled / ROWS_NAME).unlink()
    assert EmbeddingCache(filled).missing(PROMPTS) == PROMPTS


def test_a_cache_deleted_and_begun_again_is_read_anew(filled, encoder):
    cache = EmbeddingCache(filled)
    require_right(cache)
    for name in (INDEX_NAME, ROWS_NAME):
        (filled / name).unlink()
    EmbeddingCache(filled).fill(PROMPTS[::-1], encoder)
    require_right(cache)


@pytest.mark.parametrize("width", [6, 20], ids=["the index is longer", "the rows are longer"])
def test_a_disk_that_takes_no_more_leaves_what_was_encoded(tmp_path, processes, width):
    messages, kept = processes.Queue(), []
    for most_bytes in (400, 700, 1000, 1337):  # of either file
        arguments = (tmp_path / "cache", most_bytes, width, messages)
        writer = processes.Process(target=write_on_little_disk, args=arguments)
        writer.start()
        assert "File too large; check the folder and the disk, and run again" in messages.get(timeout=60)
        writer.join()
        cache = EmbeddingCache(tmp_path / "cache")
        missing, before = cache.missing(PROMPTS), kept
        kept = [prompt for prompt in PROMPTS if prompt not in missing]
        assert kept == PROMPTS[: len(kept)]
        assert len(kept) >= len(before)
        if kept:
            require_right(cache, kept, width=width)
    assert 0 < len(kept) < len(PROMPTS)
    encoder = Encoder(tmp_path / "encoded", width=width)
    cache.fill(PROMPTS, encoder)
    assert encoder.encoded == Counter(PROMPTS[len(kept) :])
    require_right(EmbeddingCache(tmp_path / "cache"), width=width)
    assert len(cache.table) == len(PROMPTS), "unfinished rows are written over"


@pytest.mark.parametrize(("value", "shown"), [(7e4, "70000"), (-torch.inf, "inf"), (torch.nan, "nan")])
def test_what_half_precision_cannot_hold_is_refused(tmp_path, value, shown):
    def encode(prompts):
        embeddings = torch.stack([embedding(prompt) for prompt in prompts])
        embeddings[1, 2, 3] = value
        return embeddings

    cache = EmbeddingCache(tmp_path / "cache")
    with pytest.raises(EmbeddingError, match=rf"'{PROMPTS[1]}' must lie within ±65504 .* largest value is {shown};"):
        cache.fill(PROMPTS, encode)
    assert cache.missing(PROMPTS) == PROMPTS


def test_embeddings_of_another_shape_are_refused(filled, tmp_path):
    with pytest.raises(EmbeddingError, match=r"of tokens x width \(5, 6\), got \(5, 8\)"):
        EmbeddingCache(filled).fill(["a new one"], Encoder(tmp_path / "log", width=8))
    require_right(EmbeddingCache(filled))


def test_a_folder_of_something_else_is_refused(filled):
    sound = (filled / INDEX_NAME).read_text()
    for text in ("{}\n", "[]\n", "a table\n", sound.replace('"format": 1', '"format": 2'), sound.replace("f2", "f4")):
        (filled / INDEX_NAME).write_text(text)
        with pytest.raises(EmbeddingError, match=r"must begin with the header of an embedding cache .* delete the"):
            EmbeddingCache(filled).missing(PROMPTS)


def sparse(folder: Path, count: int, tokens: int, width: int) -> int:
    """Writes a cache whose rows take no room on the disk; returns how large it claims to be."""
    folder.mkdir()
    header = {"format": 1, "dtype": np.dtype("f2").str, "tokens": tokens, "width": width, "id": "0"}
    lines = [header, *([hashlib.sha256(str(row).encode()).hexdigest(), 0] for row in range(count))]
    (folder / INDEX_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    size = count * tokens * width * 2
    with open(folder / ROWS_NAME, "wb") as rows:
        rows.truncate(size)
    return size


def resident() -> int:
    """This process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_table_is_mapped_not_read(tmp_path):
    size = sparse(tmp_path / "cache", 2000, 77, 768)
    before = resident()
    table = EmbeddingCache(tmp_path / "cache").table
    assert resident() - before < 10e6
    assert table[[3, 1999]].float().sum() == 0
    assert resident() - before < 20e6
    float(table.view(torch.int16).amax())
    assert resident() - before > 0.9 * size, "positive control: all of it read is all of it resident"


def test_a_table_may_be_larger_than_the_memory(tmp_path):
    count = 1 + 3 * os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() // 2**31
    assert sparse(tmp_path / "cache", count, 1024, 2**20) > os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    assert EmbeddingCache(tmp_path / "cache").table[-1, -1, -1] == 0
