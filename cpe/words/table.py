"""The shipped table of word vectors: 30,000 English words, GloVe 6B, 50 numbers each."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

SHIPPED = Path(__file__).parent / "glove-6b-50d-30k.safetensors"


def load_table(path: Path = SHIPPED) -> tuple[list[str], np.ndarray]:
    """Returns the words, most frequent first, and their vectors (words, 50) in float32."""
    content = load_file(path)
    return content["words"].tobytes().decode().split("\n"), content["vectors"].astype(np.float32)
