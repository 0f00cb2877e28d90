"""Structural types of other libraries' objects: what this package asks of a pipeline, a model, a tokenizer.

A signature says `Pipeline`, not diffusers' `DiffusionPipeline`, since what arrives need not be one: `torch.compile`,
offloading, quantisation and adapters wrap modules, and a family's members (`to_q`, `norm1_context`, `text_encoder_2`)
differ from class to class, so that a nominal type would need a cast at every use. Members on which all callers rely are
spelt out; `__getattr__` stands for those that a family knows of its own classes. Naming diffusers' classes would also
import diffusers into everything, the command line's refusals included.

The types exist for type checkers. At run time each is `Any`: a wrapper that passes attributes on need not pass an
`isinstance` check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Protocol

    import torch
    from torch import nn

    class Config(Protocol):
        """What a model or scheduler was built with: a frozen mapping whose entries are attributes too."""

        def __getattr__(self, name: str, /) -> Any: ...
        def __getitem__(self, name: str, /) -> Any: ...
        def __contains__(self, name: object, /) -> bool: ...
        def __iter__(self) -> Iterator[str]: ...
        def keys(self) -> Iterable[str]: ...

    class Module(Protocol):
        """A layer, a block or an attention: anything of a model that is called with tensors."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
        def forward(self, *args: Any, **kwargs: Any) -> Any: ...
        def __getattr__(self, name: str, /) -> Any: ...
        def __delattr__(self, name: str, /) -> None: ...

    class Model(Module, Protocol):
        """A whole network: a transformer, a U-Net, a text encoder."""

        @property
        def config(self) -> Any: ...
        @property
        def device(self) -> torch.device: ...
        @property
        def dtype(self) -> torch.dtype: ...
        def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
        def named_modules(self) -> Iterator[tuple[str, Any]]: ...

    class Scheduler(Protocol):
        """A noise scheduler of diffusers."""

        @property
        def config(self) -> Any: ...
        def __getattr__(self, name: str, /) -> Any: ...

    class Pipeline(Protocol):
        """A diffusion pipeline: paints when called, and holds its models by name."""

        @property
        def components(self) -> Mapping[str, Any]: ...
        @property
        def config(self) -> Any: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
        def __getattr__(self, name: str, /) -> Any: ...
        def __setattr__(self, name: str, value: Any, /) -> None: ...

    class Processor(Protocol):
        """What transformers puts before a model: turns pictures, texts or both into tensors."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
        def __getattr__(self, name: str, /) -> Any: ...

    class Tokenizer(Processor, Protocol):
        """The processor of texts alone; a special token that a class lacks is None."""

        @property
        def model_max_length(self) -> int: ...
        @property
        def all_special_ids(self) -> list[int]: ...
else:
    Config = Module = Model = Scheduler = Pipeline = Processor = Tokenizer = Any
