"""CPE, Concept Pinpoint Eraser: concepts taken out of text-to-image models by gates on the text.

What a user needs is here, loaded when asked for: `Eraser`, `detach`, `ConceptList`, `load_list`, `load_pipeline`,
`train` with its `ConceptTexts`, `BaseProjections` and `encode_prompts`, and the `PRESETS`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpe.attachment import detach as detach
    from cpe.batch import ConceptTexts as ConceptTexts
    from cpe.concept_files import load_list as load_list
    from cpe.concepts import ConceptList as ConceptList
    from cpe.config import PRESETS as PRESETS
    from cpe.eraser import Eraser as Eraser
    from cpe.models import encode_prompts as encode_prompts
    from cpe.models import load_pipeline as load_pipeline
    from cpe.projections import BaseProjections as BaseProjections
    from cpe.training import train as train

_PUBLIC = {
    "BaseProjections": "cpe.projections",
    "ConceptList": "cpe.concepts",
    "ConceptTexts": "cpe.batch",
    "Eraser": "cpe.eraser",
    "PRESETS": "cpe.config",
    "detach": "cpe.attachment",
    "encode_prompts": "cpe.models",
    "load_list": "cpe.concept_files",
    "load_pipeline": "cpe.models",
    "train": "cpe.training",
}
__all__ = [
    "PRESETS",
    "BaseProjections",
    "ConceptList",
    "ConceptTexts",
    "Eraser",
    "detach",
    "encode_prompts",
    "load_list",
    "load_pipeline",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cpe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)
