"""What goes into some modules of a running model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from diffusers.hooks import HookRegistry
from torch import Tensor, nn

from conceptlens.values.models import Module
from conceptlens.watch.recorder import HOOK, NamedHook, input_of, unhook


@contextmanager
def watch_inputs(modules: Mapping[int, Module]) -> Iterator[dict[int, Tensor]]:
    """Inside it, the last input of each module, by the module's key."""
    seen: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for key, module in modules.items():
            hook = _InputHook(seen, key)
            HookRegistry.check_if_exists_or_initialize(cast("nn.Module", module)).register_hook(hook, hook.name)
            stack.callback(unhook, module, hook.name)
        yield seen


class _InputHook(NamedHook):
    name = f"{HOOK}-input"

    def __init__(self, seen: dict[int, Tensor], key: int) -> None:
        super().__init__()
        self._seen, self._key = seen, key

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._seen[self._key] = input_of(module, None, args, kwargs)
        return args, kwargs
