"""The fingerprint: which encoder made a vector."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from .spec import EncoderSpec

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin")
_BLOCK_BYTES = 1 << 24


def fingerprint(spec: EncoderSpec, folders: Iterable[Path], files: Iterable[Path], measured: bytes = b"") -> str:
    """Hash an encoder: its spec, its tokenizer and configuration, and every byte of its weights.

    Args:
        spec: the encoder's description.
        folders: model, tokenizer and adapter folders, in the order they take effect.
        files: further weight files (dense layers).
        measured: a hash of what the encoder holds beside its files.

    Returns:
        32 hexadecimal digits; equal exactly when the vectors are, numerics of device and dtype aside.
    """
    digest = hashlib.blake2b(spec.identity().encode(), digest_size=16)
    for folder in dict.fromkeys(folders):
        patterns = (*_WEIGHTS, "config.json", "tokenizer.json", "adapter_config.json")
        for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
            _add(digest, file)
    for file in files:
        _add(digest, file)
    digest.update(measured)
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, file: Path) -> None:
    digest.update(f"\0{file.name}\0{file.stat().st_size}\0".encode())
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
