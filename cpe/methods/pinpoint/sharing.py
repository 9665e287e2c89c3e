"""Gates as one file with a configuration and a card beside it, for model hubs and for people."""

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from cpe.methods.erased import Erased
from cpe.methods.pinpoint.storage.files import LoadedGates, metadata_of, to_tensors
from cpe.methods.pinpoint.storage.merging import merged
from cpe.methods.sharing import CARD, WEIGHTS, push, write_config

SHORT_CARD = """---
library_name: cpe
base_model: {base}
tags: [cpe, concept-erasing]
---

# {count} out of {base}

CPE gates that take out: {names}.

```python
from cpe import Eraser, load_pipeline

pipe = load_pipeline("{base}")
with Eraser.from_pretrained("{repo}").attached(pipe):
    picture = pipe("...").images[0]
```

What it does was not measured by whoever made this card; `cpe push` makes one with figures, of a registered version.
"""


class SharedGates(Erased, ABC):
    """Gates that can be saved and pushed as they are loaded."""

    _parts: Sequence[LoadedGates]

    def save_pretrained(self, folder: str | Path, *, base_model: str, card: str = "", repo: str = "owner/name") -> None:
        """Writes all gates as one safetensors file (one a shape), with config.json and a card.

        Args:
            folder: where; made if it is not there.
            base_model: that the gates were trained for, as it is loaded by name.
            card: Markdown; empty writes a short one.
            repo: how the short card says that they are loaded.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(merged(self._parts)):
            name = WEIGHTS if number == 0 else WEIGHTS.replace(".", f"-{number + 1}.")
            tensors = to_tensors(part.gates, part.sites)
            save_file(tensors, folder / name, metadata_of(part.gates, part.concepts) | {"base_model": base_model})
        write_config(folder, method="cpe", concepts=self.concepts, base_model=base_model)
        names = ", ".join(self.concepts)
        count = f"{len(self.concepts)} concept{'s' * (len(self.concepts) != 1)}"
        text = card or SHORT_CARD.format(base=base_model, count=count, names=names, repo=repo)
        (folder / CARD).write_text(text, encoding="utf-8")

    def push_to_hub(
        self, repo: str, *, base_model: str, card: str = "", private: bool = True, revision: str | None = None
    ) -> str:
        """Pushes the gates to a model repository, made if it is not there, and returns the commit's address.

        Raises:
            ValueError: the name is none of a repository.
            OSError: the hub refuses, or cannot be reached.
        """
        with TemporaryDirectory() as scratch:
            self.save_pretrained(scratch, base_model=base_model, card=card, repo=repo)
            message = f"{len(self.concepts)} concepts out of {base_model}"
            return push(Path(scratch), repo, private=private, message=message, revision=revision)
