"""Small real parts for tests: random models of three architectures, a byte tokenizer, adapters made by peft itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.pytorch_utils import Conv1D

VOCAB = 260
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
ARCHITECTURES = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=4, tie_word_embeddings=True),
    "qwen": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "mistral": MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=8),
}
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "mistral": ["q_proj", "v_proj", "down_proj"],
}


# A chat template that is short, for contexts of 128 bytes.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end-of-text token that begins every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0} | {letter: index for index, letter in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def make_base(folder: Path, kind: str = "llama", seed: int = 0, template: str | None = None) -> Path:
    """A random causal LM and its tokenizer, with this chat template, saved as `transformers` saves them."""
    torch.manual_seed(seed)
    config = copy.deepcopy(ARCHITECTURES[kind])
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # wide logits, so that a difference shows
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, kind: str = "llama", seed: int = 1, **options) -> Path:
    """A random LoRA adapter for `base`, written by peft."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 6,
            "target_modules": TARGETS[kind],
            "init_lora_weights": False,
            "fan_in_fan_out": kind == "gpt2",
            "task_type": "CAUSAL_LM",
        }
        | options
    )
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(str(folder))
    return folder


def make_desk_folders(root: Path, kind: str = "llama", attributes: tuple[str, ...] = ("formality", "humor")) -> Path:
    """`root/base` and `root/anchors` with two poles an attribute."""
    base = make_base(root / "base", kind)
    for seed, name in enumerate(f"{a}/{p}" for a in attributes for p in ("negative", "positive")):
        make_adapter(base, root / "anchors" / name, kind, seed=seed + 1)
    return root


def edit_config(adapter: Path, **changes) -> None:
    """Change entries of an adapter's configuration on disk."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def merged_reference(base: Path, adapters: list[tuple[Path, float]]) -> PreTrainedModel:
    """Plain `transformers`, its weights `W0 + sum c * s * B A` in float32, by peft's own scaling for each module."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for folder, coefficient in adapters:
            wrapped = peft.PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder
            )
            scalings = {
                name.removeprefix("base_model.model."): module.scaling["default"]
                for name, module in wrapped.named_modules()
                if isinstance(module, peft.tuners.lora.LoraLayer)
            }
            tensors = load_file(folder / "adapter_model.safetensors")
            for name, scaling in scalings.items():
                a = tensors[f"base_model.model.{name}.lora_A.weight"].double()
                b = tensors[f"base_model.model.{name}.lora_B.weight"].double()
                module = model.get_submodule(name)
                delta = coefficient * scaling * (b @ a)
                weight = module.weight
                assert isinstance(weight, torch.Tensor)
                weight += (delta.T if isinstance(module, Conv1D) else delta).float()
    return model.eval()
