from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from decant.service.config import ConfigError, Settings
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(authority: trustme.CA, folder: Path, name: str) -> dict[str, Path]:
    made = authority.issue_cert(name)
    paths = {"cert": folder / f"{name}.pem", "key": folder / f"{name}.key", "ca": folder / "ca.pem"}
    made.cert_chain_pems[0].write_to_path(paths["cert"])
    made.private_key_pem.write_to_path(paths["key"])
    authority.cert_pem.write_to_path(paths["ca"])
    return paths


def embed(port: int, credentials: grpc.ChannelCredentials) -> bytes:
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        request = pb.EmbedRequest(texts=["a"])
        return stubs.EncoderStub(channel).Embed(request, timeout=10).embeddings[0].dense


def get(port: int, context: ssl.SSLContext) -> int:
    with urllib.request.urlopen(f"https://localhost:{port}/health", context=context, timeout=10) as response:
        return int(response.status)


def test_both_ports_speak_tls(run_server: Callable[..., Any], authority: trustme.CA, tmp_path: Path) -> None:
    made = files(authority, tmp_path, "localhost")
    server = run_server(host="127.0.0.1", tls_cert=made["cert"], tls_key=made["key"]).server
    trusting = grpc.ssl_channel_credentials(made["ca"].read_bytes())
    assert len(embed(server.grpc_port, trusting)) == 128
    assert get(server.http_port, ssl.create_default_context(cafile=str(made["ca"]))) == 200
    with pytest.raises(grpc.RpcError):
        embed(server.grpc_port, grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes()))
    with grpc.insecure_channel(f"localhost:{server.grpc_port}") as plain, pytest.raises(grpc.RpcError):
        stubs.EncoderStub(plain).Embed(pb.EmbedRequest(texts=["a"]), timeout=5)
    old = ssl.create_default_context(cafile=str(made["ca"]))
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    assert get(server.http_port, old) == 200


def test_clients_must_show_a_certificate_where_that_is_asked(
    run_server: Callable[..., Any], authority: trustme.CA, tmp_path: Path
) -> None:
    made = files(authority, tmp_path, "localhost")
    client = files(authority, tmp_path, "client.example")
    server = run_server(tls_cert=made["cert"], tls_key=made["key"], tls_client_ca=made["ca"]).server
    ca = made["ca"].read_bytes()
    known = grpc.ssl_channel_credentials(ca, client["key"].read_bytes(), client["cert"].read_bytes())
    assert len(embed(server.grpc_port, known)) == 128
    with pytest.raises(grpc.RpcError):
        embed(server.grpc_port, grpc.ssl_channel_credentials(ca))
    stranger = trustme.CA().issue_cert("stranger.example")
    with pytest.raises(grpc.RpcError):
        chain = stranger.cert_chain_pems[0].bytes()
        embed(server.grpc_port, grpc.ssl_channel_credentials(ca, stranger.private_key_pem.bytes(), chain))
    context = ssl.create_default_context(cafile=str(made["ca"]))
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
        get(server.http_port, context)
    context.load_cert_chain(client["cert"], client["key"])
    assert get(server.http_port, context) == 200


def test_certificates_that_cannot_be_used_are_named(
    running: Any, encoder: Any, authority: trustme.CA, tmp_path: Path
) -> None:
    from decant.service.server import Server

    made = files(authority, tmp_path, "localhost")
    other = files(trustme.CA(), tmp_path, "other.example")

    async def start(**settings: Any) -> None:
        await Server(Settings.load(grpc_port=0, http_port=0, **settings), encoder).start()

    with pytest.raises(ConfigError, match="tls_key"):
        running.do(start(tls_cert=made["cert"], tls_key=tmp_path / "absent.key"))
    with pytest.raises(ConfigError, match="cannot be used"):
        running.do(start(tls_cert=made["cert"], tls_key=other["key"]))
    with pytest.raises(ConfigError, match="go together"):
        Settings.load(tls_cert=made["cert"])
