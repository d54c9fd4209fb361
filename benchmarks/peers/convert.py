"""The same weights in the formats of other runtimes: ONNX and GGUF, beside a copy of the encoder's folder.

    python benchmarks/peers/convert.py FOLDER TARGET

Bidirectional decoders of the Llama family only, with mean pooling and padding on the right; anything else is refused.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from environments import packages_of, python_of
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer


class Padded(nn.Module):
    """A Llama decoder over padded batches in a form that can be exported: tokens see all that is no padding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, length) int64 twice; (batch, length, H) float32."""
        x = self.model.embed_tokens(input_ids)
        hidden = (1 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        angles = self.model.rotary_emb(x, torch.arange(input_ids.shape[1])[None])
        for layer in self.model.layers:
            x = layer(x, attention_mask=hidden, position_embeddings=angles)
        return self.model.norm(x)


def to_onnx(model: Any, target: Path) -> None:
    """Write model.onnx."""
    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    names = ("input_ids", "attention_mask", "last_hidden_state")
    target.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        Padded(model),
        (ids, ids),
        str(target),
        input_names=list(names[:2]),
        output_names=[names[2]],
        dynamic_axes=dict.fromkeys(names, axes),
        opset_version=17,
        dynamo=False,
    )


def to_gguf(model: Any, folder: Path, target: Path, kind: str) -> None:
    """Write a GGUF file of matrices in `kind`, `F32`, `BF16` or `Q8_0`; everything else stays float32."""
    import gguf

    config, tokenizer = model.config, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    # Only there to be loaded: the worker hands over the ids of the model's own tokenizer.
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words += [f"<unused{i}>" for i in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["a b"])
    for token in ("bos", "eos"):
        getattr(writer, f"add_{token}_token_id")(getattr(config, f"{token}_token_id"))
    quantized = getattr(gguf.GGMLQuantizationType, kind)
    for name, weight in _gguf_names(model):
        array = weight.float().numpy()
        if array.ndim == 1 or kind == "F32":
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_names(model: Any) -> list[tuple[str, Tensor]]:
    config, found = model.config, [("token_embd.weight", model.embed_tokens.weight)]
    for i, layer in enumerate(model.layers):
        attends, mlp = layer.self_attn, layer.mlp
        found += [
            (f"blk.{i}.attn_norm.weight", layer.input_layernorm.weight),
            (f"blk.{i}.ffn_norm.weight", layer.post_attention_layernorm.weight),
        ]
        linears = {"attn_q": attends.q_proj, "attn_k": attends.k_proj, "attn_v": attends.v_proj}
        linears |= {"attn_output": attends.o_proj}
        linears |= {"ffn_gate": mlp.gate_proj, "ffn_up": mlp.up_proj, "ffn_down": mlp.down_proj}
        turned = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for name, linear in linears.items():
            for part, values in linear.named_parameters():
                own = _interleaved(values, turned[name]) if name in turned else values
                found.append((f"blk.{i}.{name}.{part}", own))
    return [*found, ("output_norm.weight", model.norm.weight)]


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """llama.cpp turns neighbours against each other where transformers turns halves."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


@torch.no_grad()
def main() -> None:
    """Convert what is not there yet; a runtime whose environment is missing is made one."""
    folder, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama" or config.get("is_causal", True):
        raise SystemExit(f"{folder.name} is no bidirectional decoder of the Llama family: compare without these peers")
    wanted = sys.argv[3:]
    if not target.exists():
        shutil.copytree(folder, target)
        # The name that transformers before 5 has for the same class.
        settings = target / "tokenizer_config.json"
        known = settings.read_text(encoding="utf-8").replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
        settings.write_text(known, encoding="utf-8")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    if "onnx" in wanted or "openvino" in wanted:
        python_of("onnx")
        # Only the exporter's own library: everything of the same name here comes first.
        sys.path.append(str(packages_of("onnx")))
        if not (file := target / "onnx" / "model.onnx").exists():
            to_onnx(model.eval(), file)
    if "llama" in wanted:
        python_of("llama")
        sys.path.append(str(packages_of("llama")))
        for kind in ("F32", "BF16", "Q8_0"):
            if not (file := target / f"{kind}.gguf").exists():
                to_gguf(model, folder, file, kind)


if __name__ == "__main__":
    main()
