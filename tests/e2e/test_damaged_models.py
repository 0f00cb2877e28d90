"""A damaged or incomplete model folder, and a hub out of reach, are one line that names the file or the cause."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

import conceptlens as cl
from conceptlens.bench.fidelity._loading import load as load_judge
from conceptlens.readers.loading import demo_folder
from conceptlens.readers.opening import opening
from conceptlens.readers.text_side import load_text_side
from conceptlens.values.errors import ModelError

CLIP, DIT = "text_encoder/model.safetensors", "transformer/diffusion_pytorch_model.safetensors"
BLOCK = "transformer_blocks.5.attn.to_q"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_folder(), tmp_path / "model"))


def weights(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    held = load_file(path)
    change(held)
    save_file(held, path, {"format": "pt"})


def settings(path: Path, **given: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | given))


@pytest.mark.parametrize("file", [CLIP, DIT])
def test_a_weight_that_the_files_lack_is_never_made_up(folder: Path, file: str) -> None:
    name = sorted(load_file(folder / file))[7]
    weights(folder / file, lambda held: held.pop(name))
    with pytest.raises(
        ModelError, match=rf"cannot load folder .*: {file.split('/')[0]}: the weights have no {name} for"
    ):
        cl.load(folder, device="cpu")


def test_nor_in_the_text_side_or_a_model_of_a_method(folder: Path) -> None:
    weights(folder / CLIP, lambda held: held.pop("embeddings.token_embedding.weight"))
    with pytest.raises(ModelError, match=r"the text encoders of folder .*no embeddings.token_embedding.weight"):
        load_text_side(folder, device="cpu")
    with pytest.raises(ModelError, match=r"the weights have no .* for CLIPModel"):
        load_judge(str(folder / "text_encoder"), CLIPModel, "cpu")


def test_the_libraries_are_as_they_were_after_loading(folder: Path) -> None:
    weights(folder / CLIP, lambda held: held.pop("final_layer_norm.bias"))
    before = CLIPModel.from_pretrained
    with pytest.raises(ModelError):
        cl.load(folder, device="cpu")
    assert CLIPModel.from_pretrained == before


def test_blocks_that_the_config_leaves_out_are_an_error_and_other_leftovers_are_not(folder: Path) -> None:
    weights(folder / DIT, lambda held: held.update({"head_of_another_task.weight": torch.zeros(2, 2)}))
    assert cl.load(folder, device="cpu").depth == 6
    settings(folder / "transformer/config.json", num_layers=5)
    with pytest.raises(
        ModelError, match=r"transformer: the weights have transformer_blocks\.5\..*, a block beyond those"
    ):
        cl.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (CLIP, lambda path: path.write_bytes(path.read_bytes()[:-99]), f"{CLIP} is damaged .*not fully covered"),
        (DIT, lambda path: path.write_bytes(b""), f"{DIT} is damaged"),
        (DIT, lambda path: path.unlink(), "transformer: Error no file named"),
        ("vae/config.json", lambda path: path.write_text("{"), "vae/config.json is damaged"),
        ("text_encoder/config.json", lambda path: path.write_text("null"), "text_encoder/config.json is damaged"),
        ("model_index.json", lambda path: path.write_text("[" * 100_000), "damaged .maximum recursion"),
        ("model_index.json", lambda path: path.write_text("[]"), "index.json is damaged .a JSON object"),
        ("tokenizer/tokenizer.json", lambda path: path.write_text("{}"), "tokenizer: KeyError: 'added_tokens'"),
        ("tokenizer/tokenizer.json", lambda path: path.unlink(), "tokenizer: it knows [0-9]+ tokens, and its"),
        ("tokenizer_2/tokenizer.json", lambda path: path.unlink(), "tokenizer_2: it knows [0-9]+ tokens, and its text"),
        ("tokenizer/tokenizer_config.json", lambda path: path.unlink(), "tokenizer: model_max_length .* at most 32"),
        ("scheduler/scheduler_config.json", lambda path: path.unlink(), "scheduler: Error no file named"),
        (CLIP, lambda path: weights(path, lambda held: held.update({"final_layer_norm.bias": torch.zeros(3)})),
         r"text_encoder: final_layer_norm.bias has shape \(3,\) in the weights, \(64,\) by config.json"),
        (DIT, lambda path: weights(path, lambda held: held.update({f"{BLOCK}.bias": torch.zeros(3)})),
         rf"transformer: Cannot load .*because {BLOCK}.bias expected shape torch.Size\(\[128\]\), but got torch.Size"),
        ("conceptlens.json", lambda path: path.write_text('{"background": "sky"}'), "background is 'sky', not a list"),
        ("conceptlens.json", lambda path: path.write_text("[]"), "cannot use .*conceptlens.json"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(folder: Path, file: str, damage: Callable[[Path], object], message: str) -> None:
    damage(folder / file)
    with pytest.raises(ModelError, match=message) as caught:
        cl.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert "random" not in str(caught.value)


def test_errors_without_words_name_their_kind(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load folder .*: AssertionError"), opening(folder, "model_index.json"):
        raise AssertionError


@contextmanager
def hub(answer: int, headers: dict[str, str], delay: float = 0) -> Iterator[str]:
    """A hub on this machine that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            time.sleep(delay)
            self.send_response(answer)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str, model: str = "nobody/nothing") -> tuple[str, float]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    started = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        cl.load(model, device="cpu")
    return str(caught.value), time.perf_counter() - started


@pytest.mark.parametrize(
    ("status", "headers", "cause"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "has no such model, or a private one"),
        (403, {"X-Error-Code": "GatedRepo"}, "it is gated. Accept its terms on"),
        (404, {"X-Error-Code": "EntryNotFound"}, "it has no model_index.json"),
        (503, {}, "answers 503"),
    ],
)
def test_the_hub_says_why(monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], cause: str) -> None:
    with hub(status, headers) as endpoint:
        message, seconds = ask(monkeypatch, endpoint)
    assert message.startswith("cannot load model 'nobody/nothing' (no such folder, so a hub id): ")
    assert cause in message
    assert seconds < 3


def test_without_a_network_the_answer_comes_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    message, seconds = ask(monkeypatch, "http://127.0.0.1:1")
    assert "no network: 127.0.0.1:1 cannot be reached" in message
    assert seconds < 3
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
    with hub(200, {}, delay=1.5) as endpoint:
        message, seconds = ask(monkeypatch, endpoint)
    assert "cannot be reached" in message or "no answer from" in message
    assert seconds < 1.5


def test_offline_the_cache_is_used_or_missed_without_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "models--some--model/snapshots/abc"
    shutil.copytree(demo_folder(), copy)
    (tmp_path / "models--some--model/refs").mkdir()
    (tmp_path / "models--some--model/refs/main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set and the cache has no copy. Unset it, or name a folder"):
        cl.load("some/other", device="cpu")
    assert cl.load("some/model", device="cpu").model_id == "some/model"
    assert cl.doctor("some/model").blocks == 6


def test_a_path_that_is_no_hub_id_is_not_asked_for() -> None:
    with pytest.raises(ModelError, match="cannot load model '/no/such': there is no such folder"):
        cl.load("/no/such")
