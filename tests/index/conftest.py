"""Object storage on loopback, for the tests that need one."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def storage():
    """The address of moto's S3 server."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(storage, monkeypatch, tmp_path):
    """An empty bucket's address; the environment names the server and its keys."""
    import urllib.request

    environment = {
        "AWS_ENDPOINT_URL": storage,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = tmp_path.name.replace("_", "-")[:40].strip("-").lower()
    urllib.request.urlopen(urllib.request.Request(f"{storage}/{name}", method="PUT")).close()
    return f"s3://{name}"
