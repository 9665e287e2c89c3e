"""What the code never does: read pickles, run what it reads, or listen to other machines."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from prefect.settings.models.server.api import ServerAPISettings
from safetensors.torch import load_file

from cpe.models.loading import EMBEDDED_FOLDER, ModelError, load_pipeline
from helpers.places import PROJECT

SOURCES = sorted(path for folder in ("cpe", "artifacts", "tasks", "flows") for path in (PROJECT / folder).rglob("*.py"))
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
ERRORS = {"PickleError", "PicklingError", "UnpicklingError"}  # may be caught
YAML_LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "unsafe_load", "full_load", "load", "load_all"}
FORBIDDEN = {
    "os.system", "os.popen", "eval", "exec", "pandas.read_pickle",
    "gensim.models.KeyedVectors.load", "gensim.models.Word2Vec.load", "torch.jit.load", "torch.hub.load",
}  # fmt: skip
FLAGS = {
    "trust_remote_code": True,
    "allow_pickle": True,
    "weights_only": False,
    "shell": True,
    "use_safetensors": False,
}
EVERYWHERE = {"0.0.0.0", "::", "[::]"}


def faults(source: str) -> list[str]:
    """Returns what a module does that none of ours may."""
    return [f"line {node.lineno}: {ast.unparse(node)[:80]}" for node in _faults(ast.parse(source))]


def _faults(tree: ast.AST) -> Iterator[ast.AST]:
    names = {}  # what a module or function is called here: what it is
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def full_name(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{full_name(node.value)}.{node.attr}"
        return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            parts = [f"{module}.{alias.name}" if module else alias.name for alias in node.names]
            if any(_is_evil(part) and part != "pickle" for part in parts):
                yield node
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            if _is_evil(full_name(node)) and full_name(node) != "pickle":
                yield node
        elif isinstance(node, ast.Call):
            options = {keyword.arg: keyword.value for keyword in node.keywords}
            constants = {name: value.value for name, value in options.items() if isinstance(value, ast.Constant)}
            name = full_name(node.func)
            unsure = name == "torch.load" and constants.get("weights_only") is not True
            flagged = any(constants.get(flag, not value) is value for flag, value in FLAGS.items())
            if unsure or flagged or name in FORBIDDEN:
                yield node
        elif isinstance(node, ast.Constant) and node.value in EVERYWHERE:
            yield node
        elif isinstance(node, ast.Tuple | ast.List):
            for option, host in zip(node.elts, node.elts[1:], strict=False):
                given = isinstance(option, ast.Constant) and option.value in ("--host", "-H", "--bind")
                if given and ast.unparse(host) not in ("LOOPBACK", "'127.0.0.1'", "'localhost'"):
                    yield node


def _is_evil(name: str) -> bool:
    """Says whether a full name is of a module that unpickles, or of YAML's that runs what it reads."""
    module, _, rest = name.partition(".")
    if module in PICKLES:
        return rest not in ERRORS
    return module == "yaml" and rest.partition(".")[0] in YAML_LOADERS


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.load(file)",
        "from pickle import load",
        "import pickle\nread = pickle.Unpickler",
        "import joblib",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "from torch import load\nload(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=sure)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "from numpy import load\nload(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Ours(yaml.Loader): pass",
        "from yaml import unsafe_load",
        "from gensim.models import KeyedVectors as K\nK.load(path)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(line)",
        "Model.from_pretrained(name, trust_remote_code=True)",
        "Model.from_pretrained(name, use_safetensors=False)",
        "serve(host='0.0.0.0')",
        "command = ['mlflow', 'server', '--host', name]",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert faults(source)


def test_the_search_lets_harmless_code_be() -> None:
    harmless = """
import json, pickle, subprocess, torch, yaml
from pathlib import Path
class Ours(yaml.SafeLoader): pass
def read(path, model):
    try: torch.load(path, weights_only=True)
    except pickle.UnpicklingError: json.loads(path)
    subprocess.run(["ls", "--host", LOOPBACK]); model.load(path); yaml.safe_load(path); model.eval()
"""
    assert faults(harmless) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_no_module_unpickles_runs_what_it_reads_or_listens_to_others(path: Path) -> None:
    assert faults(path.read_text()) == []


def test_no_setting_listens_to_other_machines() -> None:
    files = [PROJECT / name for name in ("Makefile", "prefect.yaml", "pyproject.toml", ".ci/run", "README.md")]
    for path in [*files, *(PROJECT / "scripts").glob("*.py"), *(PROJECT / "docs").glob("*.md")]:
        assert not re.search(r"0\.0\.0\.0|\[::\]", path.read_text()), path
    assert ServerAPISettings.model_fields["host"].default == "127.0.0.1"


def test_a_base_model_whose_weights_are_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    load_pipeline(str(folder), device="cpu")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelError, match="no usable model folder"):
        load_pipeline(str(folder), device="cpu")
