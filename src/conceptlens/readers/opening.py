"""A folder or a hub id, opened quietly: whatever goes wrong is one line that names the file or the cause."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TypeVar

import diffusers
import transformers
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from conceptlens.readers.weights import cause, damaged_file, whole_weights
from conceptlens.values.errors import ConceptlensError, ModelError

T = TypeVar("T")

PIPELINE_FILE, MODEL_FILE = "model_index.json", "config.json"
"""What a folder of diffusers' pipelines has, and one of a single model."""
_PATIENCE = "HF_HUB_ETAG_TIMEOUT"


@contextmanager
def opening(model: str | Path, file: str, *, part: str = "") -> Iterator[str]:
    """Within it a folder or a hub id is loaded: quietly, and with all of its weights.

    Args:
        model: a folder, or else a hub id.
        file: `PIPELINE_FILE` or `MODEL_FILE`; the model must have it.
        part: of the model, where it is not opened whole; for messages.

    Yields:
        What the libraries are to load: the folder, the hub id, or the copy in the cache if the hub is out of reach.

    Raises:
        ModelError: for whatever goes wrong. Other errors of this package pass.
    """
    local = Path(model).is_dir()
    if local and not (Path(model) / file).exists():
        kind = "diffusers pipeline" if file == PIPELINE_FILE else "model of transformers"
        raise ModelError(f"{model} is no {kind}: it has no {file}. Name the folder that has one.")
    what = f"{part} of " if part else ""
    where = f"cannot load {what}{'folder' if local else 'model'} " + (str(model) if local else repr(str(model)))
    source = str(model) if local else _hub_source(str(model), file, where)
    try:
        with whole_weights(), quiet_loading(progress=not local):
            yield source
    except ConceptlensError:
        raise
    except Exception as error:  # the libraries raise anything for a damaged file, tokenizers the bare class
        fault = damaged_file(Path(source)) or cause(error)
        raise ModelError(f"{where}: {fault}. Save or download it again, or name another.") from error


def _hub_source(name: str, file: str, where: str) -> str:
    """The id where the hub has the file, else the folder of its copy in the cache; within seconds."""
    try:
        copy = try_to_load_from_cache(name, file)
    except HFValidationError as error:
        raise ModelError(f"{where}: there is no such folder, and a hub id is NAME or OWNER/NAME.") from error
    try:
        if constants.HF_HUB_OFFLINE:
            raise ModelError("HF_HUB_OFFLINE is set and the cache has no copy. Unset it, or name a folder.")
        _ask_hub(name, file)
    except ModelError as error:
        if isinstance(copy, str):
            return str(Path(copy).parent)
        raise ModelError(f"{where} (no such folder, so a hub id): {error}") from error
    return name


def _ask_hub(name: str, file: str) -> None:
    """Raises a `ModelError` with the reason why a file cannot be fetched."""
    hub, patience = constants.ENDPOINT.partition("//")[2], float(os.environ.get(_PATIENCE, 3))
    try:
        url = hf_hub_url(name, file, endpoint=constants.ENDPOINT)
        _within(patience, lambda: get_hf_file_metadata(url, timeout=patience))
    except GatedRepoError as error:
        raise ModelError(
            f"it is gated. Accept its terms on https://{hub}/{name}, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{hub} has no such model, or a private one. Check the spelling, or log in with `hf auth login`."
        ) from error
    except EntryNotFoundError as error:
        raise ModelError(f"it has no {file} on {hub}. Name a model that has one.") from error
    except HfHubHTTPError as error:
        raise ModelError(f"{hub} answers {error.response.status_code}. Try again later, or name a folder.") from error
    except TimeoutError as error:
        raise ModelError(
            f"no answer from {hub} in {patience:g} seconds. Check the network; {_PATIENCE}=30 waits longer."
        ) from error
    except Exception as error:  # of whichever client of HTTP the hub's library uses
        raise ModelError(f"no network: {hub} cannot be reached. Check the network, or name a folder.") from error


def _within(seconds: float, job: Callable[[], T]) -> T:
    """A job's result. The names of hosts are looked up with no limit of time, so it runs in a thread that is left."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(job())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=run, daemon=True).start()
    return answer.result(timeout=seconds)


@contextmanager
def quiet_loading(*, progress: bool) -> Iterator[None]:
    """Loading without the libraries' remarks, and without their bars unless something may be downloaded."""
    loggers = (diffusers.utils.logging, transformers.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars = [logger.is_progress_bar_enabled() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        if not progress:
            logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level, bar in zip(loggers, levels, bars, strict=True):
            logger.set_verbosity(level)
            if bar:
                logger.enable_progress_bar()
