"""The servers that `serve.py` measures, each a process of its own on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
INFINITY = ROOT / ".env-infinity"


class Decant:
    """`decant serve`."""

    def __init__(self, model: str, name: str) -> None:
        command = [sys.executable, "-m", "decant.service.cli", "serve", "--model", model, "--dtype", "float32"]
        command += ["--grpc-port", "0", "--http-port", "0", "--device", "cpu"]
        environment = {
            **os.environ,
            "DECANT_LOG_REQUESTS": "none",
            "DECANT_REQUEST_SECONDS": "300",
            "DECANT_NAME": name,
        }
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        ready = next(json.loads(line) for line in self.process.stderr if '"ready"' in line)
        self.grpc_port, self.http_port = ready["grpc_port"], ready["http_port"]
        # Its log must not fill the pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def memory_bytes(self) -> int:
        """Resident memory now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it in order."""
        self.process.terminate()
        self.process.wait(60)


class Peer:
    """An application of `peers/` under uvicorn, one process."""

    def __init__(self, model: str, application: str, python: str = sys.executable) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.http_port = int(free.getsockname()[1])
        command = [python, "-m", "uvicorn", f"{application}:app", "--port", str(self.http_port), "--log-level", "error"]
        environment = {**os.environ, "MODEL": str(Path(model).resolve()), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(command, env=environment, cwd=PEERS, stderr=subprocess.DEVNULL)
        while self.process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{self.http_port}/openapi.json")
                return
            except httpx.TransportError:
                time.sleep(0.2)
        raise SystemExit(f"{application} did not start: run `python -m uvicorn {application}:app` in {PEERS.name}/")

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()


def infinity_python() -> str:
    """The interpreter of infinity's environment, made at the first call.

    infinity's own requirements exclude the transformers that can run a bidirectional decoder, and everything newer than
    2024; so it is installed without them and takes the libraries, and thereby torch, of this environment.
    """
    python = INFINITY / "bin" / "python"
    if not (INFINITY / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(INFINITY)], check=True)
        [packages] = INFINITY.glob("lib/python*/site-packages")
        (packages / "zz-shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(PEERS / "infinity.txt")]
        subprocess.run(install, check=True)
        (INFINITY / "complete").touch()
    return str(python)
