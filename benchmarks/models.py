"""docs/models.md out of the registry: `python benchmarks/models.py` writes it."""

from __future__ import annotations

import warnings
from pathlib import Path

from conceptlens.adapters import registered
from conceptlens.adapters._groups import GROUPS
from conceptlens.engine.doctor import doctor
from conceptlens.errors import RecipeError

TARGET = Path(__file__).parents[1] / "docs" / "models.md"

HEAD = """# Models

Written by `benchmarks/models.py` out of the registry; do not edit. Ask about any model, loaded or not:

```python
import conceptlens as cl

print(cl.doctor("QwenImageTransformer2DModel").describe())
```

A family counts as supported when its adapter keeps the whole contract (CONTRIBUTING.md) on tiny random models of the
real diffusers classes: the picture bit for bit as without maps, the prompt's own text reproduced block by block to
1e-10 in float64, probing a record the same as asking while painting. *Official figures*: the vectors of the official
code on tiny random weights, reproduced to 1e-5; such a family has `preset="paper"`. *Real weights* were run for none
of them here, save the embedded model, which is of the FLUX.1 family. Blocks are the class's default.

"""


def families() -> str:
    """One row per transformer class with an adapter."""
    rows = [
        "| family | transformer class | text | blocks | default layers | official figures | real weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, adapter in sorted(registered().items(), key=lambda item: item[1].name):
        found = doctor(name)
        assert found.ok, found.describe()
        assert found.recipe is not None
        layers = found.recipe.layers or ()
        try:
            adapter(None).paper_recipe(4)
            official = "yes"
        except RecipeError:
            official = "there are none"
        real = "embedded model" if name == "FluxTransformer2DModel" else "not run here"
        rows.append(
            f"| {adapter.name} | `{name}` | {found.group} | {found.blocks} | {layers[0]} to {layers[-1]} | {official} "
            f"| {real} |"
        )
    return "\n".join(rows)


def others() -> str:
    """One section per group of classes without an adapter."""
    parts = []
    for group in GROUPS:
        classes = [f"`{name}`" for name in group.classes if name not in registered()]
        if classes:
            word = "The method applies" if group.applies else "The method does not apply"
            title = group.name[0].upper() + group.name[1:]
            parts.append(f"### {title}\n\n{word}: {group.reason}. {group.instead}\n\n{', '.join(classes)}")
    return "\n\n".join(parts)


def render() -> str:
    """The whole page."""
    return f"{HEAD}{families()}\n\n## Without an adapter\n\n{others()}\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    TARGET.write_text(render(), encoding="utf-8")
