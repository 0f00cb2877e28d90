"""docs/models.md and the package's listings out of the registries: `python benchmarks/models.py` writes both."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conceptlens._version import package_version
from conceptlens.bench.datasets import registered as datasets
from conceptlens.bench.scorer import PACKAGES
from conceptlens.bench.table_one import models_of
from conceptlens.diagnosis import doctor, served
from conceptlens.families import known_classes, registered
from conceptlens.families.base import ModelAdapter
from conceptlens.families.groups import GROUPS
from conceptlens.methods import registered as methods
from conceptlens.readers.loading import demo_folder
from conceptlens.values.listings import FILE

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "models.md"

HEAD = """# Models

Written by `benchmarks/models.py` out of the registry; do not edit. Ask about any model, loaded or not:

```python
import conceptlens as cl

print(cl.doctor("QwenImageTransformer2DModel").describe())
```

`conceptlens doctor --all` lists every class that is served, as the tests find it on tiny weights.

Tiers:

* *adapter*: the text half of a block is written out, concepts cost about a hundredth of a step, all spaces and options.
* *re-entry*: the model's own blocks run once more with the concepts in place of the prompt and the recorded image rows
  in place of the image; a step costs about twice as much, `isolate=True` once more for each concept. Output space only.
* *experimental*: as re-entry, for text and image in one stream. The mechanism is proven; the quality of the maps is not
  validated on real weights, and every result says so (`details["caveat"]`).

A class counts as supported when it keeps the contract (CONTRIBUTING.md) on tiny random models of the real diffusers
classes: the picture bit for bit as without maps, the prompt's own text reproduced block by block (1e-10 in float64,
1e-5 in float32), probing a record the same as asking while painting. *Pipeline*: a whole tiny pipeline painted and read
in the tests too. *Official figures*: the vectors of the official code on tiny random weights, reproduced to 1e-5; such
a family has `preset="paper"`. *Real weights* were run for none of them here, save the embedded model, which is of the
FLUX.1 family. Blocks are the class's default.

Classes under [plain cross attention](#plain-cross-attention) and [text as keys and values
alone](#text-as-keys-and-values-alone) have no text stream, so concept attention refuses them; `read` and `probe` hold
words against their cross attention ([how](prompt-and-clip-methods.md)). Whole tiny pipelines of each are painted
and read in the tests; real weights were not run.

"""


def families(examined: Sequence[Mapping[str, Any]]) -> str:
    """One row per transformer class that is served, as `listings` has them."""
    rows = [
        "| family | transformer class | text | tier | blocks | default layers | contract | pipeline | official figures "
        "| real weights |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    from tiny_reentry import TINY

    piped_classes = {tiny.transformer for tiny in TINY.values()}
    embedded = json.loads((demo_folder() / "transformer" / "config.json").read_text(encoding="utf-8"))["_class_name"]
    for found in examined:
        name, layers = found["transformer"], found["recipe"]["layers"]
        adapter = registered()[name]
        official = "yes" if adapter.paper_recipe is not ModelAdapter.paper_recipe else "there are none"
        real = "embedded model" if name == embedded else "not run"
        piped = "yes" if found["tier"] == "adapter" or name in piped_classes else "not run"
        rows.append(
            f"| {found['adapter']} | `{name}` | {found['group']} | {found['tier']} | {found['blocks']} "
            f"| {layers[0]} to {layers[-1]} | kept | {piped} | {official} | {real} |"
        )
    return "\n".join(rows)


def all_blocks() -> str:
    """The classes whose single-stream blocks can be followed too."""
    names = ", ".join(f"`{name}`" for name, family in registered().items() if family.all_blocks is not None)
    return f"""## Single-stream blocks behind dual-stream ones

The paper reads dual-stream blocks, and so do the adapters. `cl.load(model, single_stream=True)`, or `--single-stream`,
follows the single-stream blocks behind them too, by re-entry, as an experiment; layers are counted through (of FLUX.1,
0 to 18 are dual-stream, 19 to 56 single-stream). The contract is kept on tiny random models, and where an adapter
serves the dual-stream blocks both ways give the same numbers. On the embedded model its single-stream blocks are near
chance ([figures](benchmarks.md#single-stream-blocks)); real weights were not run.

{names}"""


def others() -> str:
    """One section per group of classes without an adapter."""
    parts = []
    for group in GROUPS:
        classes = [f"`{name}`" for name, its in known_classes().items() if its is group and name not in registered()]
        if classes:
            word = "The method applies" if group.applies else "The method does not apply"
            title = group.name[0].upper() + group.name[1:]
            parts.append(f"### {title}\n\n{word}: {group.reason}. {group.instead}\n\n{', '.join(classes)}")
    return "\n\n".join(parts)


def render(examined: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    return f"{HEAD}{families(examined)}\n\n{all_blocks()}\n\n## Without an adapter\n\n{others()}\n"


def listed_methods() -> dict[str, dict[str, Any]]:
    """What `conceptlens methods` shows."""
    return {
        name: {"summary": method.summary, **asdict(method.info), "zoo": models_of(name)}
        for name, method in methods().items()
    }


def listed_datasets() -> dict[str, dict[str, str]]:
    """What `conceptlens bench` shows of each dataset, in the order in which it lists them."""
    generated, voc = ("scenes", "scenes-single"), ("imagenet-seg", "voc-single", "voc-multi", "pascal-context")
    coco, others = ("coco-panoptic", "coco-object", "coco-instances"), ("ade20k", "cityscapes", "index-png", "folder")
    order = (*generated, *voc, *coco, *others)
    known = datasets()
    assert set(order) == set(known), set(order) ^ set(known)
    return {name: {"summary": known[name].summary, "needs": known[name].source} for name in order}


def write_listings() -> list[dict[str, Any]]:
    """Writes what `conceptlens methods` and `conceptlens doctor` show; the examined classes."""
    from specimens import SPECIMENS, dry_run, required_settings

    needed = {name: required_settings(specimen) for name, specimen in SPECIMENS.items()}
    content: dict[str, Any] = {
        "methods": listed_methods(),
        "datasets": listed_datasets(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "required_settings": {name: settings for name, settings in needed.items() if settings},
        "transformers": [{"transformer": name, **dry_run(SPECIMENS[name])} for name in served()],
    }
    _write(content)  # `doctor` reads the dry runs from there
    examined = [doctor(name) for name in served()]
    assert all(found.ok for found in examined), [found.describe() for found in examined if not found.ok]
    content["transformers"] = [{**asdict(found), "ok": found.ok} for found in examined]
    _write(content)
    return content["transformers"]


def _write(content: Mapping[str, Any]) -> None:
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    warnings.simplefilter("ignore")
    TARGET.write_text(render(json.loads(json.dumps(write_listings()))), encoding="utf-8")
