"""CPE, Concept Pinpoint Eraser: concepts taken out of text-to-image models by gates on the text.

What a user needs is here, loaded when asked for: `Eraser`, `ConceptList`, `load_list`, `load_pipeline`, `train`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpe.concept_files import load_list as load_list
    from cpe.concepts import ConceptList as ConceptList
    from cpe.eraser import Eraser as Eraser
    from cpe.models import load_pipeline as load_pipeline
    from cpe.training import train as train

_PUBLIC = {
    "ConceptList": "cpe.concepts",
    "Eraser": "cpe.eraser",
    "load_list": "cpe.concept_files",
    "load_pipeline": "cpe.models",
    "train": "cpe.training",
}
__all__ = ["ConceptList", "Eraser", "load_list", "load_pipeline", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cpe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)
