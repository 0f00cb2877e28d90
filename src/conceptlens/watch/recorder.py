"""Recorder: watches a transformer with read-only hooks and hands out each finished block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor, nn

from conceptlens.families.base import ModelAdapter, Tap
from conceptlens.families.kinds.calls import named_arguments, replaced_forward, signature_of
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import ModelError, RecipeError
from conceptlens.values.models import Module, Pipeline
from conceptlens.values.recipe import Branch
from conceptlens.values.records import CallRecord, LayerRecord, R

HOOK = "conceptlens"
CALLS = {"cond": True, "cond_uncond": True, "pred_cond": True, "uncond": False, "pred_uncond": False}
"""Labels that pipelines give their calls of the transformer: whether the prompt has rows in such a call."""
T = TypeVar("T")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def opaque(function: _Function) -> _Function:
    """What hooks do is no part of the model: a compiler must neither trace it nor compile anew when it changes."""
    return cast("_Function", torch.compiler.disable(function))


class Recorder(Generic[R]):
    """A context manager, for one use; inside it every call of the transformer reports its wanted blocks, in order.

    Diffusers' own `ModelHook` is used because it survives `torch.compile`, where plain module hooks lose data. Hooks
    return what they were given, so the model computes the same bits with and without them.

    Args:
        adapter: the family of the transformer.
        on_layer: called inside each block's own hook (its weights are on the device then) with the block and its
            record. The record holds references, not copies.
        last: the last block that is reported.
        outputs: the blocks whose `out` (and `query`) are recorded; others give keys and values only.
        queries: record image queries too.
        pipeline: the pipeline that makes the calls, to tell conditional from unconditional rows; None if called bare.
        pictures: how many pictures the pipeline paints at once.
        wants_step: which denoising steps are reported.
        stop: end the forward after `last` by raising `StopForward`.
        branch: whose rows are read under classifier-free guidance.
    """

    def __init__(  # noqa: PLR0913 - what is watched, how far, and for whom: keywords with defaults
        self,
        adapter: ModelAdapter[R],
        on_layer: Callable[[Module, R], None],
        *,
        last: int,
        outputs: frozenset[int],
        queries: bool = False,
        pipeline: Pipeline | None = None,
        pictures: int = 1,
        wants_step: Callable[[int], bool] = lambda step: True,
        stop: bool = False,
        branch: Branch = "prompt",
    ) -> None:
        _refuse_unreadable(adapter)
        self._adapter, self._on_layer, self._pipeline = adapter, on_layer, pipeline
        self._last, self._outputs, self._queries, self._stop = last, outputs, queries, stop
        self._wants_step, self._branch, self._pictures = wants_step, branch, pictures
        self._hooked: list[tuple[Any, str]] = []
        self._tapped: dict[str, Tensor] = {}
        self._arguments: Mapping[str, Any] = {}
        self._rows: slice | None = None
        self._call: CallRecord | None = None
        self._previous: CallRecord | None = None
        self._timestep: Any = None
        self._busy = False
        self._own_calls = 0
        self.calls = 0
        self.captured = 0

    def __enter__(self) -> Recorder[R]:
        try:
            self._hook(self._adapter.transformer, _CallHook(self))
            for layer, block in enumerate(self._adapter.blocks()):
                if layer > self._last:
                    break
                for name, tap in self._adapter.taps(block).items():
                    if self._wants(layer, name):
                        self._hook(tap.module, _TapHook(self, name, tap))
                self._hook(block, _BlockHook(self, layer))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()
        self._on_layer = _done  # hooks live on until Python looks for cycles; what was recorded must not
        if error is not None:
            check_compiled(error)

    @opaque
    def begin_call(self, args: tuple[Any, ...], kwargs: dict[str, Any], context: str | None) -> None:
        """A transformer call starts: decides whether it is read, and which rows of it."""
        if self._busy:
            return
        self._arguments = named_arguments(self._adapter.transformer, args, kwargs)
        self._call = None
        self._rows = self._rows_of(context)
        if self._rows is None:
            return
        step, self.calls = self.calls, self.calls + 1
        if self._wants_step(step):
            self._call = self._adapter.observe(self._arguments, self._rows, step, self._previous)
            self._previous = self._call

    def _rows_of(self, context: str | None) -> slice | None:
        """The rows of this call that belong to the branch; None where there are none."""
        conditional = not self._repeats_timestep() if context is None else CALLS.get(context)
        if conditional is None:
            return None
        if conditional:
            self._own_calls += 1
            if self._own_calls > 1 and self._branch == "negative":  # a whole step has passed
                self.check_branch()
        if self._adapter.is_perturbed(self._arguments) or (self._branch == "prompt" and not conditional):
            return None
        if self._pipeline is None:
            return slice(None) if self._branch == "prompt" else None
        parts = self._parts(conditional)
        if self._branch not in parts:
            return None
        first = parts.index(self._branch) * self._pictures
        return slice(first, first + self._pictures)

    def _parts(self, conditional: bool) -> tuple[str, ...]:
        """What the batch of this call holds, each part with a row for each picture.

        Raises:
            ModelError: for a batch that is not known to be laid out so.
        """
        rows, pictures = len(self._arguments[self._adapter.latents]), self._pictures
        known: list[tuple[str, ...]] = [("prompt",) if conditional else ("negative",)]
        if self._adapter.guided_batch:
            known.append(self._adapter.guided_batch)
        if getattr(self._pipeline, "do_perturbed_attention_guidance", False):
            known = [(*parts, "perturbed") for parts in known]
        for parts in known:
            if rows == len(parts) * pictures:
                return parts
        raise ModelError(
            f"{type(self._pipeline).__name__} called its transformer with {rows} rows for {pictures} picture(s), where "
            f"{' or '.join(str(len(parts) * pictures) for parts in known)} were expected: whose rows are whose "
            "cannot be known. Turn that guidance off, or report the pipeline."
        )

    def check_branch(self) -> None:
        """Raises a `RecipeError` where the negative prompt was asked for and no call had rows of it."""
        if self._branch == "negative" and self.calls == 0:
            raise RecipeError(
                "branch='negative' follows the pass of the negative prompt, and this call paints without one. Turn "
                "classifier-free guidance on (guidance_scale=, or true_cfg_scale= with negative_prompt=), where the "
                "model has it."
            )

    def _repeats_timestep(self) -> bool:
        """Pipelines that do not label their calls run the prompt first, then the negative prompt at the same time."""
        before, now = self._timestep, self._arguments[self._adapter.timestep]
        self._timestep = now
        return self._pipeline is not None and before is not None and torch.equal(before, now)

    @opaque
    def end_call(self) -> None:
        """Drops every reference to the call's tensors."""
        if self._busy:
            return
        self._arguments, self._call, self._rows = {}, None, None
        self._tapped.clear()

    @opaque
    def tap(self, name: str, tensor: Tensor) -> None:
        if self._call is not None:
            # Perturbed-attention guidance passes by again, with the perturbed rows alone.
            self._tapped.setdefault(name, tensor)

    @opaque
    def finish_block(self, layer: int, block: Module) -> None:
        """Turns the taps of one block into a record and reports it."""
        if self._call is None:
            return
        call, rows, tapped = self._call, self._rows, self._tapped
        assert rows is not None
        missing = [name for name in self._adapter.taps(block) if self._wants(layer, name) and name not in tapped]
        if missing:
            raise ModelError(
                f"block {layer} ran without passing its {', '.join(missing)} by: another tool replaced its attention. "
                "Remove that tool (attention processors, caches) or report the model."
            )
        record = self._adapter.record(block, layer, call, tapped, rows)
        self._tapped.clear()
        self.captured += 1
        self._call, self._busy = None, True  # what the concepts now run through may be tapped modules
        try:
            self._on_layer(block, record)
        finally:
            self._call, self._busy = call, False
        if self._stop and layer == self._last:
            raise StopForward

    def _wants(self, layer: int, name: str) -> bool:
        if name == "out":
            return layer in self._outputs
        if name == "query":
            return self._queries and layer in self._outputs
        return True

    def _hook(self, module: Module, hook: NamedHook) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(cast("nn.Module", module))
        if registry.get_hook(hook.name) is not None:
            raise ModelError("this model is being read already. Finish (or close) the other reading first.")
        registry.register_hook(hook, hook.name)
        registry.invalidate_child_registries_cache()
        self._hooked.append((module, hook.name))

    def _remove(self) -> None:
        for module, name in reversed(self._hooked):
            unhook(module, name)
        self._hooked.clear()
        self._previous, self._timestep = None, None
        self.end_call()


def _done(block: Module, record: LayerRecord) -> None:
    """Takes no more blocks."""


def unhook(module: Module, name: str) -> None:
    """Takes a hook off, and with the last one all traces of the registry."""
    registry = HookRegistry.check_if_exists_or_initialize(cast("nn.Module", module))
    registry.remove_hook(name, recurse=False)
    registry.invalidate_child_registries_cache()
    if not registry.hooks:
        del module._diffusers_hook  # noqa: SLF001 - diffusers never takes a registry off
        if getattr(module.forward, "__func__", None) is type(module).forward:
            del module.forward


def check_compiled(error: BaseException) -> None:
    """Raises a `ModelError` where an error says that hooks cannot be part of a compiled graph."""
    if type(error).__module__ == "torch._dynamo.exc" and type(error).__name__ == "Unsupported":
        raise ModelError(
            "this model was compiled with fullgraph=True, which leaves hooks no place. Compile it without fullgraph."
        ) from error


class NamedHook(ModelHook):
    """A hook that knows the name it is registered under."""

    name = HOOK


class _CallHook(NamedHook):
    """On the transformer. Stateful, so that `cache_context("cond")` of the pipeline reaches it."""

    _is_stateful = True

    def __init__(self, recorder: Recorder[Any]) -> None:
        super().__init__()
        self._recorder = recorder
        self.contexts = StateManager(BaseState())

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            context = self.contexts.context.name
        except ValueError:
            context = None
        self._recorder.begin_call(args, kwargs, context)
        return args, kwargs

    def post_forward(self, module: nn.Module, output: T) -> T:
        self._recorder.end_call()
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        return module


class _TapHook(NamedHook):
    def __init__(self, recorder: Recorder[Any], name: str, tap: Tap) -> None:
        super().__init__()
        self.name = f"{HOOK}-{name}"
        self._recorder, self._tapped, self._tap = recorder, name, tap

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._tap.side == "input":
            self._recorder.tap(self._tapped, input_of(module, self._tap.argument, args, kwargs))
        return args, kwargs

    def post_forward(self, module: nn.Module, output: T) -> T:
        if self._tap.side == "output":
            seen: Any = output
            self._recorder.tap(self._tapped, seen if self._tap.select is None else self._tap.select(seen))
        return output


class _BlockHook(NamedHook):
    def __init__(self, recorder: Recorder[Any], layer: int) -> None:
        super().__init__()
        self._recorder, self._layer = recorder, layer

    def post_forward(self, module: nn.Module, output: T) -> T:
        self._recorder.finish_block(self._layer, module)
        return output


def input_of(module: nn.Module, name: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The first argument of a call, or the one with this name, however it was given."""
    if name is None:
        return args[0]
    return kwargs[name] if name in kwargs else args[_place_of(module, name)]


def with_input(
    module: nn.Module, name: str, value: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another value for one of them."""
    if name in kwargs:
        return args, {**kwargs, name: value}
    place = _place_of(module, name)
    return (*args[:place], value, *args[place + 1 :]), kwargs


def _place_of(module: nn.Module, name: str) -> int:
    """Where an argument stands in the module's forward, `self` left out."""
    names = list(signature_of(type(module).forward).parameters)
    if name not in names:
        raise replaced_forward(module)
    return names.index(name) - 1


def _refuse_unreadable(adapter: ModelAdapter) -> None:
    transformer = adapter.transformer
    if getattr(transformer, "is_cache_enabled", False):
        raise ModelError(
            "this transformer has a step cache (FirstBlockCache or its kin), which skips blocks, so maps would be "
            "partial. Call pipeline.transformer.disable_cache() first."
        )
    if transformer.training and getattr(transformer, "gradient_checkpointing", False):
        raise ModelError("gradient checkpointing runs blocks twice. Call transformer.eval() first.")
    for block in adapter.blocks():
        registry = getattr(block, "_diffusers_hook", None)
        if registry is not None and any("group_offloading" in name for name in registry.hooks):
            raise ModelError(
                "block-level group offloading takes a block's weights away before its concepts are computed. Use "
                "offload_type='leaf_level', or pipeline.enable_model_cpu_offload()."
            )
