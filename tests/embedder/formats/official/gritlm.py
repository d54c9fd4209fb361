"""GritLM, embedding mode."""

from __future__ import annotations

from pathlib import Path

from official import TASK, TEXTS, WIDTHS, Built, Call, case, edit_json, random_model, rows, save_tokenizer, states
from torch import Tensor
from transformers import AutoTokenizer, MistralConfig


@case("GritLM")
def gritlm(folder: Path) -> Built:
    """github.com/ContextualAI/gritlm, `gritlm.py`: embedding mode."""
    model = random_model(MistralConfig(**WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    code = "modeling_gritlm7b.Mistral"
    classes = {"AutoModel": f"{code}Model", "AutoModelForCausalLM": f"{code}ForCausalLM"}
    edit_json(folder / "config.json", {"auto_map": classes})
    (folder / "modeling_gritlm7b.py").write_text("raise RuntimeError('remote code ran')\n")
    save_tokenizer(folder, "sentencepiece", "<s> $A", tokenizer_class="LlamaTokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def vector(instruction: str, text: str) -> Tensor:
        before = f"<|user|>\n{instruction}\n<|embed|>\n" if instruction else "<|embed|>\n"
        hidden = states(model, tokenizer(before + text).input_ids, bidirectional=True)
        return hidden[len(tokenizer(before).input_ids) :].mean(0)

    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([vector(instruction, text) for text in TEXTS]))
        for arguments, instruction in (({}, ""), ({"kind": "query", "instruction": TASK}, TASK))
    ]
    return Built(folder, calls, plain_again=True)
