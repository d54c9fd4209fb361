"""What docs/clients.md and docs/serving.md show is run as it stands there, but for the ports."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from decant.embedder import Encoder, EncoderSpec
from decant.index import Document
from decant.service.config import Settings

DOCS = Path(__file__).parents[2] / "docs"
NEEDED = {"from openai": "openai", "from langchain_openai": "langchain_openai", "from llama_index": "llama_index"}


def blocks(name: str) -> Iterator[tuple[int, str]]:
    """Indented blocks of a page, each with the number of its first line."""
    lines = (DOCS / name).read_text("utf-8").splitlines()
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.startswith("    ") or (not line and block and number < len(lines) and lines[number].startswith("    ")):
            block.append(line)
        elif block:
            yield number - len(block), textwrap.dedent("\n".join(block)) + "\n"
            block = []


def of_kind(*starts: str) -> list[Any]:
    pages = ("clients.md", "serving.md")
    found = [(page, line, text) for page in pages for line, text in blocks(page) if text.startswith(starts)]
    return [pytest.param(text, id=f"{page}:{line}") for page, line, text in found]


def commands(program: str) -> list[Any]:
    """Command lines that begin with a program, their continuations joined."""
    texts = [(param.id, param.values[0]) for param in of_kind("curl ", "grpcurl ")]
    found: list[Any] = []
    for place, text in texts:
        for command in re.sub(r"\\\n\s*", "", text).splitlines():
            if command.startswith(f"{program} "):
                found.append(pytest.param(command, id=f"{place}-{len(found)}"))
    return found


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A tiny random model that can do what the examples ask for: 128 dimensions, and learned terms."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from decant.embedder.spec import SparseSpec

    folder = tmp_path_factory.mktemp("wide-model")
    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(tiny_model, hidden_size=256, num_attention_heads=4, head_dim=64)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    prompts = {"query": "query: ", "document": ""}
    spec = EncoderSpec(prompts=prompts, max_tokens=128, dimensions=(128,), sparse=SparseSpec())
    return Encoder.load(folder, device="cpu", dtype="float32", spec=spec)


@pytest.fixture(scope="module")
def served(make_running: Any, wide: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("notes") / "notes"
    store = {"name": "notes", "path": str(folder), "writable": True}
    server = make_running(wide, name="decant-mini", stores=[store])
    document = {"doc_id": "naming.md", "text": "Label values should not contain user IDs.", "media": "markdown"}
    assert server.http("/documents", {"documents": [document]}).status == 200
    yield server
    server.stop()


def local(text: str, served: Any) -> str:
    server = served.server
    ported = text.replace("localhost:50051", f"localhost:{server.grpc_port}")
    return ported.replace("localhost:8080", f"localhost:{server.http_port}")


@pytest.mark.parametrize("code", of_kind("from "))
@pytest.mark.filterwarnings("ignore")
def test_python(code: str, served: Any) -> None:
    for start, package in NEEDED.items():
        if start in code:
            pytest.importorskip(package, reason="the dev extra is not installed")
    names = {"texts": ["a", "b"], "documents": [Document("note-1", "Whales sleep upright.")]}
    exec(compile(local(code, served), "the example", "exec"), names)


@pytest.mark.parametrize("command", commands("curl"))
def test_curl(command: str, served: Any) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    arguments = shlex.split(local(command, served))
    done = subprocess.run([*arguments, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("command", commands("grpcurl"))
def test_grpcurl(command: str, served: Any) -> None:
    """The call that grpcurl would make: its JSON as a message of the method that the server's reflection names."""
    import grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    *_, data, address, method = shlex.split(local(command, served))
    service, name = method.split("/")
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        called = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.Parse(data, message_factory.GetMessageClass(called.input_type)())
        reply = message_factory.GetMessageClass(called.output_type)
        call = channel.unary_stream if called.server_streaming else channel.unary_unary
        answer = call(
            f"/{method}", request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply.FromString
        )(request, timeout=30)
        assert list(answer) if called.server_streaming else answer


@pytest.mark.parametrize("text", of_kind("model =", "[[", "tls_cert ="))
def test_settings(text: str, tmp_path: Path) -> None:
    file = tmp_path / "decant.toml"
    file.write_text(text.replace('"..."', f'"{"0" * 64}"'), "utf-8")
    assert Settings.load(file).shown()


def test_something_of_each_kind_was_found() -> None:
    counts = [len(of_kind("from ")), len(commands("curl")), len(commands("grpcurl")), len(of_kind("[["))]
    assert all(count >= least for count, least in zip(counts, (5, 6, 3, 1), strict=True)), counts
