"""What sentence-transformers meets in a folder whose vectors only Decant can compute."""

from __future__ import annotations

from typing import Any, Never

from ..errors import ModelError


class DecantModule:
    """Stands in modules.json, so that nobody reads the folder as a plain transformer with mean pooling."""

    @classmethod
    def load(cls, model_name_or_path: str, **_: Any) -> Never:
        """Refuse, naming the way in.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{model_name_or_path} holds an encoder that sentence-transformers cannot express: load it with "
            "decant.embedder.Encoder.load"
        )
