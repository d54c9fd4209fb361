"""infinity's own HTTP server, its telemetry off, with the settings that suit a CPU; `serve.py` starts it.

It needs an environment of its own, see infinity.txt.
"""

from __future__ import annotations

import os

os.environ.update(DO_NOT_TRACK="1", INFINITY_ANONYMOUS_USAGE_STATS="0", HF_HUB_OFFLINE="1")

from infinity_emb import EngineArgs
from infinity_emb.infinity_server import create_server

app = create_server(
    engine_args_list=[
        EngineArgs(
            model_name_or_path=os.environ["MODEL"],
            served_model_name="model",
            engine="torch",
            device="cpu",
            dtype="float32",
            bettertransformer=False,
            compile=False,
            model_warmup=False,
        )
    ],
    url_prefix="/v1",
)
