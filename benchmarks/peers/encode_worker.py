"""One contestant of `encode.py`, a process of its own: `python encode_worker.py KIND VARIANT FOLDER`.

It says `ready`, and then answers each line of standard input, {"texts": FILE, "vectors": FILE or null}, with the
seconds that encoding took, by the clock and of the processor.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1", DO_NOT_TRACK="1", INFINITY_ANONYMOUS_USAGE_STATS="0", TOKENIZERS_PARALLELISM="true"
)

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[list[str]], NDArray[np.float32]]
THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def decant(variant: str, folder: str) -> Encode:
    """This project."""
    from decant.embedder import Encoder

    encoder = Encoder.load(folder, device="cpu", dtype=variant)
    return lambda texts: np.asarray(encoder.encode(texts).dense)


def torch_encoder(variant: str, folder: str) -> Encode:
    """sentence-transformers as people use it first."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, variant)})
    return lambda texts: model.encode(texts, convert_to_tensor=True).float().numpy()


def onnx(variant: str, folder: str) -> Encode:
    """sentence-transformers on ONNX Runtime; `int8` by its own dynamic quantization."""
    import onnxruntime
    from sentence_transformers import SentenceTransformer

    name = "model.onnx"
    if variant == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        name = "model_int8.onnx"
        if not (made := Path(folder, "onnx", name)).exists():
            quantize_dynamic(Path(folder, "onnx", "model.onnx"), made, weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    settings = {"file_name": f"onnx/{name}", "provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=settings)
    return lambda texts: model.encode(texts)


def openvino(variant: str, folder: str) -> Encode:
    """sentence-transformers on OpenVINO; `default` leaves the number format to it: bfloat16 where that is fast."""
    import openvino as ov
    from sentence_transformers import SentenceTransformer

    if not (made := Path(folder, "openvino", "openvino_model.xml")).exists():
        ov.save_model(ov.convert_model(str(Path(folder, "onnx", "model.onnx"))), made, compress_to_fp16=False)
    settings = {"INFERENCE_NUM_THREADS": str(THREADS)}
    if variant != "default":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = SentenceTransformer(folder, backend="openvino", device="cpu", model_kwargs={"ov_config": settings})
    return lambda texts: model.encode(texts)


def llama(variant: str, folder: str) -> Encode:
    """llama.cpp, handed the token ids of the model's own tokenizer."""
    from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama, llama_set_causal_attn
    from tokenizers import Tokenizer

    tokens = 4096
    model = Llama(
        str(Path(folder, f"{variant}.gguf")),
        embedding=True,
        n_ctx=tokens,
        n_batch=tokens,
        n_ubatch=tokens,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        pooling_type=LLAMA_POOLING_TYPE_MEAN,
        verbose=False,
    )
    llama_set_causal_attn(model.ctx, False)
    tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    longest = json.loads(Path(folder, "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer.enable_truncation(longest)
    own: Any = model
    own.tokenize = lambda text, *_, **__: tokenizer.encode(text.decode()).ids
    behind = dense_layer(folder)
    return lambda texts: unit(np.array(model.embed(texts), np.float32) @ behind.T)


def dense_layer(folder: str) -> NDArray[np.float32]:
    """(out, in), the linear layer behind the mean, which llama.cpp does not have."""
    from safetensors.numpy import load_file

    return load_file(Path(folder, "2_Dense", "model.safetensors"))["linear.weight"].astype(np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def infinity(variant: str, folder: str) -> Encode:
    """Infinity's engine without its server."""
    import asyncio

    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    settings: Any = {"dtype": variant, "bettertransformer": False, "compile": False, "model_warmup": False}
    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", **settings)
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())
    return lambda texts: np.array(loop.run_until_complete(engine.embed(texts))[0], np.float32)


KINDS = {
    "decant": decant,
    "sentence-transformers": torch_encoder,
    "onnx": onnx,
    "openvino": openvino,
    "llama": llama,
    "infinity": infinity,
}


def main() -> None:
    """Serve one contestant until standard input ends."""
    kind, variant, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    encode = KINDS[kind](variant, folder)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
        clock, processor = time.perf_counter(), time.process_time()
        vectors = encode(texts)
        spent = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - processor}
        if asked["vectors"]:
            np.save(asked["vectors"], vectors)
        print(json.dumps(spent), file=answers, flush=True)


if __name__ == "__main__":
    main()
