"""Stand-ins for the recipes' bases: random models of the same families with a real tokenizer, and tiny recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen3Config

from mixer.resources import BASE

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def rope(theta: float) -> dict[str, Any]:
    """Rotary embeddings with this base of their frequencies."""
    return {"rope_type": "default", "rope_theta": theta}


FAMILIES: dict[str, Any] = {
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True, rope_parameters=rope(1e6)),
    "llama": LlamaConfig(
        **SHAPE,
        head_dim=8,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ),
    "smollm2": LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters=rope(1e5)),
}
# Llama's base models have no chat template. Qwen3's would have the model think first.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
RECIPE: dict[str, Any] = {
    "base": "somebody/stand-in",
    "license": "Apache-2.0",
    "attributes": ["formality", "humor"],
    "anchors": {"rank": 1, "examples": 6, "longest": 24, "batch_tokens": 512, "lr": 0.05},
    "heads": {"attributes": ["formality"], "source": "responses", "epochs": 1, "rank": 2, "texts": 40, "a_text": 4},
    "measure": {"prompts": 2, "tokens": 6, "coupling": [2, 2, 2], "mixes": [2, 2]},
}


def make_stand_in(folder: Path, family: str) -> Path:
    """A random model of this family in `folder`, in bfloat16 as these bases are stored."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    if family != "llama":
        tokenizer.chat_template = TEMPLATE
    config = FAMILIES[family]
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):  # as of trained models, so that the fingerprint has its second part
                weight.add_(0.1 * torch.randn_like(weight))
            elif weight.ndim == 2:  # wide logits, so that anchors change texts
                weight.mul_(4)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_recipe(path: Path, **changes: Any) -> Path:
    """The tiny recipe with these keys changed; a key that is None is left out."""
    record = {key: value for key, value in (RECIPE | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(record), encoding="utf-8")
    return path
