"""CPE, Concept Pinpoint Eraser: concepts taken out of text-to-image models by gates on the text.

What a user needs is here, loaded when asked for: `Erased`, `Eraser`, `fetch`, `detach`, `load_pipeline`, `ConceptList`,
`load_list`, `train` with its `ConceptTexts`, `BaseProjections` and `encode_prompts`, and the `PRESETS`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifacts.registry.fetching import fetch as fetch
    from cpe.lists.reading import load_list as load_list
    from cpe.lists.schema import ConceptList as ConceptList
    from cpe.methods.erased import Erased as Erased
    from cpe.methods.pinpoint.batch import ConceptTexts as ConceptTexts
    from cpe.methods.pinpoint.config import PRESETS as PRESETS
    from cpe.methods.pinpoint.eraser import Eraser as Eraser
    from cpe.methods.pinpoint.training import train as train
    from cpe.models.attachment import detach as detach
    from cpe.models.loading import load_pipeline as load_pipeline
    from cpe.models.projections import BaseProjections as BaseProjections
    from cpe.models.text import encode_prompts as encode_prompts

_PUBLIC = {
    "BaseProjections": "cpe.models.projections",
    "ConceptList": "cpe.lists.schema",
    "ConceptTexts": "cpe.methods.pinpoint.batch",
    "Erased": "cpe.methods.erased",
    "Eraser": "cpe.methods.pinpoint.eraser",
    "PRESETS": "cpe.methods.pinpoint.config",
    "detach": "cpe.models.attachment",
    "encode_prompts": "cpe.models.text",
    "fetch": "artifacts.registry.fetching",
    "load_list": "cpe.lists.reading",
    "load_pipeline": "cpe.models.loading",
    "train": "cpe.methods.pinpoint.training",
}
__all__ = [
    "PRESETS",
    "BaseProjections",
    "ConceptList",
    "ConceptTexts",
    "Erased",
    "Eraser",
    "__version__",
    "detach",
    "encode_prompts",
    "fetch",
    "load_list",
    "load_pipeline",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("concept-pinpoint-eraser")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cpe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
