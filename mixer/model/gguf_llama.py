"""What a GGUF file of a Llama with a byte-level BPE stands for: its config, tokenizer and weights, in a model folder.

`transformers` reads these files as well, and others; what it makes of this kind is the same, many seconds later, since
it takes the file apart three times. It also leaves out that SmolLM2's tokenizer takes digits one by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mixer.model.gguf_file import GGUFTensor

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens that are taken whole
# How a text is cut before the merges, by `tokenizer.ggml.pre`.
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def is_plain_llama(metadata: dict[str, Any], tensors: dict[str, GGUFTensor]) -> bool:
    """Whether this module knows all that the file has; other files are for `transformers`."""
    return (
        metadata.get("general.architecture") == "llama"
        and metadata.get("tokenizer.ggml.model") == "gpt2"
        and metadata.get("tokenizer.ggml.pre") in CUTS
        and not metadata.get("tokenizer.ggml.add_bos_token")
        and not any(key.startswith(("llama.rope.scaling", "llama.expert")) for key in metadata)
        and all(_name(name) for name in tensors)
    )


@dataclass(frozen=True)
class PlainLlama:
    """A model in float32, its config and its tokenizer."""

    config: LlamaConfig
    tokenizer: PreTrainedTokenizerFast
    weights: dict[str, np.ndarray]

    @classmethod
    def of(cls, metadata: dict[str, Any], tensors: dict[str, GGUFTensor]) -> PlainLlama:
        """What a file stands for.

        Raises:
            KeyError, ValueError: metadata or tensors are missing, or have other shapes than the metadata say.
        """
        config = _config(metadata, tied="output.weight" not in tensors)
        weights = {_name(name): _weight(tensor, config) for name, tensor in tensors.items()}
        _check(config, weights)
        return cls(config, _tokenizer(metadata), weights)

    def save(self, out: Path) -> None:
        """Write it into a folder.

        Raises:
            OSError: it cannot be written.
        """
        try:
            save_file(self.weights, out / "model.safetensors", {"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        ids = {f"{name}_token_id": getattr(self.config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        for part in (self.config, self.tokenizer, GenerationConfig(**ids)):
            part.save_pretrained(out)


def _name(name: str) -> str:
    """The name in `transformers`; empty for an unknown tensor."""
    inside = BLOCK.fullmatch(name)
    if inside is None or inside[2] not in INSIDE:
        return OUTSIDE.get(name, "")
    return f"model.layers.{inside[1]}.{INSIDE[inside[2]]}.weight"


def _config(metadata: dict[str, Any], tied: bool) -> LlamaConfig:
    def of(key: str) -> Any:
        return metadata[f"llama.{key}"]

    heads, width = of("attention.head_count"), of("embedding_length")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",  # what a GPU or training should use
        vocab_size=len(metadata["tokenizer.ggml.tokens"]),
        hidden_size=width,
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=metadata.get("llama.rope.dimension_count", width // heads),
        max_position_embeddings=of("context_length"),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": metadata.get("llama.rope.freq_base", 10000.0)},
        tie_word_embeddings=tied,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _check(config: LlamaConfig, weights: dict[str, np.ndarray]) -> None:
    """Compare names and shapes with those of the model that the config describes."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    wrong = {
        name for name in expected.keys() | weights if expected.get(name) != getattr(weights.get(name), "shape", None)
    }
    if wrong:
        raise ValueError(f"the tensors do not fit the metadata, such as {min(wrong)}")


def _weight(tensor: GGUFTensor, config: LlamaConfig) -> np.ndarray:
    """A tensor's numbers, with the rows of Q and K in the order of `transformers`.

    The format has the two numbers that the rotary embedding turns together side by side; `transformers` has them half a
    head apart.
    """
    numbers = tensor.numbers()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    kind = BLOCK.fullmatch(tensor.name)
    if kind is not None and kind[2] in heads:
        pairs = numbers.reshape(heads[kind[2]], -1, 2, numbers.shape[1])
        numbers = pairs.swapaxes(1, 2).reshape(numbers.shape)
    return np.ascontiguousarray(numbers)


def _tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    plain = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    plain.pre_tokenizer = CUTS[metadata["tokenizer.ggml.pre"]]
    plain.decoder = decoders.ByteLevel()
    for kind, add in ((CONTROL, plain.add_special_tokens), (USER_DEFINED, plain.add_tokens)):
        found = [token for token, own in zip(tokens, kinds, strict=True) if own == kind]
        add([AddedToken(token, special=kind == CONTROL, normalized=False) for token in found])
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # `transformers`' and the format's
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": tokens[number] for name, number in ids.items() if number is not None},
    )
