"""Prompt to image, with the concept stream riding along."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.families.base import ModelAdapter
from conceptlens.ops.accumulate import ScoreAccumulator
from conceptlens.readers.keeping import Keeping, restore, spread, states
from conceptlens.readers.stream import Probe, needs_queries
from conceptlens.readers.text_side import text_encoders
from conceptlens.values.errors import BudgetError, ConceptlensError, ModelError, RecipeError, one_line
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import RECIPE_FIELDS, Recipe, resolve_steps
from conceptlens.values.records import LayerRecord, R, TokenGrid
from conceptlens.watch.recorder import Recorder
from conceptlens.watch.surroundings import check_surroundings


@dataclass(frozen=True)
class Generation:
    """Images and the scores of their concepts.

    Attributes:
        images: one per row of the batch; of a video model, the list of its frames.
        scores: float32 on the CPU; the grid is (rows, cols), of a video (frames, rows, cols).
        parts: with `keep`, the scores of each step and layer.
        steps: how many denoising steps there were.
        references: scores of the reference images, each on its grid.
        layers: with `keeping`, the records of all wanted steps, in order.
        recipe: that of the scores; its steps are fewer than those asked for where a record had to be cut to its budget.
        matches: of films whose queries were recorded, see `Probe.matches`.
    """

    images: list[Any]
    scores: Float[Tensor, "batch concept *grid"]
    parts: Float[Tensor, "step layer batch concept *grid"] | None
    steps: int
    layers: tuple[LayerRecord, ...]
    recipe: Recipe
    references: tuple[Float[Tensor, "batch concept _rows _cols"], ...] = ()
    matches: Float[Tensor, "batch gap frame cell cell"] | None = None


def generate(
    pipeline: Pipeline,
    adapter: ModelAdapter[R],
    begin: Callable[[Recipe], Probe[R]],
    recipe: Recipe,
    options: Mapping[str, Any],
    keeping: Keeping | None = None,
) -> Generation:
    """Runs the pipeline as it is with `options`, and probes each wanted block as it finishes.

    `begin` makes the probe of one run.

    With `keeping`, the records are kept as well. Where they go beyond its budget and fewer steps will do, the run
    begins again; that shows after the first wanted step, so it costs the steps up to there once more.

    Raises:
        BudgetError: when the records of all wanted steps would be larger than the budget; said after the first step.
        RecipeError: for the branch of the negative prompt where there is no such pass; said after the first step.
        ModelError: when not all wanted blocks of all wanted steps were seen; a partial map is never returned. Or for
            a process under `torch.autocast`, or with another default device.
    """
    check_surroundings(pipeline)
    generator = options.get("generator")
    stood = states(generator)
    try:
        return _generate(pipeline, adapter, begin(recipe), recipe, options, keeping)
    except BudgetError as error:
        if keeping is None or not keeping.fit or error.fitting < 1:
            raise
        wanted = sorted(resolve_steps(recipe.steps, pipeline.num_timesteps))
        steps = spread(error.fitting, wanted)
    warnings.warn(
        f"of {len(wanted)} steps the record has room for {len(steps)}; maps are their mean, and no other step's.",
        stacklevel=4,
    )
    pipeline.maybe_free_model_hooks()  # as the end of a run would have done
    restore(generator, stood)
    fewer = replace(recipe, steps=steps)
    return _generate(pipeline, adapter, begin(fewer), fewer, options, keeping)


def _generate(
    pipeline: Pipeline,
    adapter: ModelAdapter[R],
    probe: Probe[R],
    recipe: Recipe,
    options: Mapping[str, Any],
    keeping: Keeping | None,
) -> Generation:
    assert recipe.layers is not None
    wanted: frozenset[int] | None = None
    last = recipe.layers[-1]

    def wants_step(step: int) -> bool:
        nonlocal wanted
        if wanted is None:
            wanted = resolve_steps(recipe.steps, pipeline.num_timesteps)
        return step in wanted

    kept: list[R] = []

    def finish(block: Module, record: R) -> None:
        probe(block, record)
        if keeping is not None:
            kept.append(keeping.kept(record))
            if len(kept) == last + 1:
                keeping.check(kept, len(wanted or ()))

    recorder = Recorder(
        adapter,
        finish,
        last=last,
        outputs=frozenset(recipe.layers),
        queries=needs_queries(recipe),
        pipeline=pipeline,
        pictures=_at_once(options),
        wants_step=wants_step,
        branch=recipe.branch,
    )
    with recorder, torch.no_grad():
        images = _run(pipeline, options)
        probe.finish()
    recorder.check_branch()
    expected = len(wanted or ()) * (last + 1)
    if recorder.captured != expected or expected == 0 or recorder.calls != pipeline.num_timesteps:
        raise ModelError(
            f"{recorder.captured} of {expected} blocks were seen in {recorder.calls} calls of the transformer for "
            f"{pipeline.num_timesteps} steps; maps would be partial. Remove what skips or repeats calls (caches, "
            "interrupts, second-order schedulers), or report the model."
        )
    return _generation(images, probe, recorder.calls, tuple(kept), recipe)


def _generation(
    images: list[Any], probe: Probe[Any], steps: int, layers: tuple[LayerRecord, ...], recipe: Recipe
) -> Generation:
    """What a whole run left in its probe."""
    assert probe.grid is not None
    scores, first, references = probe.scores.mean(), probe.grid.tokens, []
    for grid in probe.references:
        references.append(on_grid(scores[..., first:], grid))
        first += grid.tokens
    return Generation(
        images=images,
        scores=on_grid(scores, probe.grid),
        parts=stack_parts(probe.scores, probe.grid) if probe.scores.parts else None,
        steps=steps,
        layers=layers,
        recipe=recipe,
        references=tuple(references),
        matches=probe.matches,
    )


def _at_once(options: Mapping[str, Any]) -> int:
    """How many pictures a pipeline paints in one call."""
    prompt = options.get("prompt")
    texts = options.get("prompt_embeds") if prompt is None else [prompt] if isinstance(prompt, str) else prompt
    each = options.get("num_images_per_prompt") or options.get("num_videos_per_prompt") or 1
    return (1 if texts is None else len(texts)) * each


def check_known(pipeline: Pipeline, options: Mapping[str, Any]) -> None:
    """Raises a `RecipeError` for a keyword that the pipeline's call does not take."""
    known = inspect.signature(pipeline.__call__).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RecipeError(
            f"neither Recipe nor {type(pipeline).__name__} has an option {unknown[0]!r}. Recipe has: "
            f"{', '.join(sorted(RECIPE_FIELDS))}."
        )


def _run(pipeline: Pipeline, options: Mapping[str, Any]) -> list[Any]:
    check_known(pipeline, options)
    known = inspect.signature(pipeline.__call__).parameters
    with refusals(pipeline, "offload=True"), _own_processors(pipeline), text_encoders(pipeline):
        # Some video pipelines give arrays unless asked for pictures.
        made = pipeline(**options, **({"output_type": "pil"} if "output_type" in known else {}))
        return made.images if "images" in made else made.frames


@contextmanager
def _own_processors(pipeline: Pipeline) -> Iterator[None]:
    """Pipelines of perturbed-attention guidance put their attention processors back only where nothing went wrong."""
    transformer = pipeline.transformer
    own = dict(transformer.attn_processors) if hasattr(pipeline, "pag_attn_processors") else None
    try:
        yield
    except BaseException:
        if own is not None:
            transformer.set_attn_processor(own)
        raise


@contextmanager
def refusals(pipeline: Pipeline, remedy: str) -> Iterator[None]:
    """Errors of a pipeline's own checks as one clear line; `remedy` is a setting that takes less memory."""
    try:
        yield
    except ConceptlensError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{one_line(error)}. Use {remedy}, a smaller picture, or fewer at once.") from error
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise RecipeError(f"{type(pipeline).__name__} refused its settings: {one_line(error)}.") from error


def on_grid(scores: Float[Tensor, "batch concept image"], grid: TokenGrid) -> Float[Tensor, "batch concept *grid"]:
    """The first scores on their patch grid, (rows, cols) or (frames, rows, cols); float32 on the CPU.

    Raises:
        ModelError: for scores that are NaN or infinite.
    """
    axes = (grid.rows, grid.cols) if grid.frames is None else (grid.frames, grid.rows, grid.cols)
    return scores[..., : grid.tokens].unflatten(-1, axes).float().cpu()


def stack_parts(scores: ScoreAccumulator, grid: TokenGrid) -> Float[Tensor, "step layer batch concept *grid"]:
    """What the accumulator kept, by step and layer."""
    steps = sorted({step for step, _ in scores.parts})
    layers = sorted({layer for _, layer in scores.parts})
    return torch.stack([torch.stack([on_grid(scores.parts[step, layer], grid) for layer in layers]) for step in steps])
