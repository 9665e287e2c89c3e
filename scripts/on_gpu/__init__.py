"""Everything worth measuring on a GPU that is there for minutes, into one file: `python3 -m scripts.on_gpu OUT.json`.

It runs from a bare checkout with PyTorch, transformers, NumPy, Pillow and PyYAML. What else it needs lies in
`build/gpu-wheels` (`make gpu-pack`, where there is a package index) and travels with the checkout. `--tiny` tries
all of it on a CPU.
"""
