"""Decoder LLM to encoder: text in, vectors out."""

import typing

from .embeddings import Embeddings
from .errors import DecantError, InputError, ModelError, UnsupportedModelError, VerificationError
from .spec import EncoderSpec

if typing.TYPE_CHECKING:
    from .encoder import Encoder

__all__ = [
    "DecantError",
    "Embeddings",
    "Encoder",
    "EncoderSpec",
    "InputError",
    "ModelError",
    "UnsupportedModelError",
    "VerificationError",
]


def __getattr__(name: str) -> typing.Any:
    # torch and transformers take seconds to import; the index and the command line often do without an encoder.
    if name == "Encoder":
        from .encoder import Encoder

        return Encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
