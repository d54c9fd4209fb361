from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decant.embedder import Encoder, EncoderSpec
from decant.service.client import CallFailed, Client
from decant.service.keys import hash_key
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs


class Loader:
    """Loads the tiny model with another spec for each name, so that every model's vectors are its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[str] = []

    def __call__(self, path: str | None, /, *, adapters: Sequence[str] = (), **_: Any) -> Encoder:
        what = "+".join([path or "first", *adapters])
        self.loaded.append(what)
        spec = EncoderSpec(prompts={"query": f"{what}: ", "document": f"{what} "}, max_tokens=64)
        return Encoder.load(self.folder, device="cpu", dtype="float32", spec=spec, verify=False)


def dense(server: Any, **request: Any) -> np.ndarray:
    with server.channel() as channel:
        answer = stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["a text"], **request))
    return np.frombuffer(answer.embeddings[0].dense, "<f4")


def test_models_and_adapters_are_served_by_name(run_server: Callable[..., Any], tiny_model: Path) -> None:
    load = Loader(tiny_model)
    server = run_server(
        load=load,
        adapters={"legal": "lora-1"},
        models=[{"name": "big", "path": "big", "adapters": {"law": "lora-2"}}, {"name": "late", "load": "request"}],
    )
    assert load.loaded == ["first+lora-1", "big", "big+lora-2"]
    named = {name: dense(server, model=name) for name in ("tiny", "tiny:legal", "big", "big:law")}
    assert len({vector.tobytes() for vector in named.values()}) == 4
    assert np.array_equal(dense(server, adapter="legal"), named["tiny:legal"])
    assert np.array_equal(dense(server, model="big", adapter="law"), named["big:law"])
    lost = server.http("/v1/embeddings", {"input": "a", "model": "late"})
    assert lost.status == 404 and "late (not loaded)" in lost.json["error"]["message"]
    server.http("/v1/embeddings", {"input": "a", "model": "big"})
    counted = server.http("/metrics").body.decode()
    assert 'method="v1/embeddings",model="big"' in counted and 'method="v1/embeddings",model=""' in counted


def test_a_model_comes_and_goes_while_others_serve(run_server: Callable[..., Any], tiny_model: Path) -> None:
    load = Loader(tiny_model)
    server = run_server(load=load, models=[{"name": "late", "path": "late", "load": "request"}])
    with Client(f"localhost:{server.server.grpc_port}") as client:
        assert client.load_model("late").dimensions == 32
        client.load_model("late")
        with pytest.raises(CallFailed, match="late"):
            client.load_model("later")
        assert load.loaded == ["late"]
        first = dense(server, model="late")
        gone = weakref.ref(server.server.models.get("late").encoder)
        client.unload_model("late")
    assert server.http("/v1/embeddings", {"input": "a", "model": "late"}).status == 404
    gc.collect()
    assert gone() is None, "an unloaded model must not stay in memory"
    assert "late" not in [
        line for line in server.http("/metrics").body.decode().splitlines() if "queue_tokens{" in line
    ]
    assert server.http("/models/late/load", {}).json == {"name": "late", "loaded": True}
    assert np.array_equal(dense(server, model="late"), first)
    assert server.http("/models/late/unload", {}).json["loaded"] is False
    assert server.http("/models/late/unload", {}).status == 404
    assert server.http("/models/nothing/load", {}).status == 404
    assert server.http("/models/tiny/unload", {}).status == 400


def test_loading_is_for_those_whose_key_says_so(run_server: Callable[..., Any]) -> None:
    keys = [
        {"sha256": hash_key("user"), "tenant": "a"},
        {"sha256": hash_key("root"), "tenant": "b", "scopes": ["admin"]},
    ]
    server = run_server(api_keys=keys)
    assert server.http("/models/x/load", {}, {"authorization": "Bearer user"}).status == 403
    assert server.http("/models/x/load", {}, {"authorization": "Bearer root"}).status == 404
