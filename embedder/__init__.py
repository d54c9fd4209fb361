"""Decoder LLM to encoder: text in, vectors out."""

from .embeddings import Embeddings
from .encoder import Encoder
from .errors import DecantError, InputError, ModelError, UnsupportedModelError, VerificationError
from .spec import EncoderSpec

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
