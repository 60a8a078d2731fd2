"""GGUF files for llama.cpp: a base model, and a mix as a LoRA adapter for it.

For Llama-shaped models in float32, bfloat16 or float16. The `gguf` package is optional. Files are not quantized:
llama.cpp has tools for that.

The rotary embedding of llama.cpp's `llama` rotates pairs of neighboring numbers, that of `transformers` pairs of a
number and the one half a head further. So the rows of the query and key projections are reordered, in the base and in
every adapter's B.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.desk import Desk
from mixer.errors import BadArtifact, InvalidValue, Unsupported
from mixer.export.factors import joined
from mixer.model.base import DTYPES, is_quantized, load_base
from mixer.values.mix import Mix

if TYPE_CHECKING:
    from gguf import GGUFWriter, TensorNameMap

ARCHITECTURE = "llama"
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

# The expressions by which byte-level tokenizers split text into words before merges, and llama.cpp's names for them.
SPLITS = {
    "": "gpt-2",  # the default of `tokenizers`, which is GPT-2's
    # The embedded base's: single digits. No merge joins two digits, so GPT-2's split gives the same tokens.
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "llama-bpe",
}


def export_gguf_base(source: Desk | Path | str, out: Path | str, dtype: str | None = None) -> Path:
    """Write a base model and its tokenizer to one GGUF file.

    Args:
        source: a desk, or a folder or hub id of a causal LM.
        dtype: `float32`, `bfloat16` or `float16`, for matrices (vectors stay float32); the model's own if None.

    Raises:
        Unsupported: the model is not Llama-shaped, is quantized, or `gguf` is not installed.
        InvalidValue: there is no such dtype. BadArtifact: the base or `out` cannot be used.
    """
    lm, tokenizer = _load(source)
    shape = _shape(lm)
    dtype = _dtype(dtype, lm)
    with _writer(out) as writer:
        writer.add_type("model")
        writer.add_name(str(source.name if isinstance(source, Desk) else Path(source).name))
        _add_shape(writer, lm)
        _add_tokenizer(writer, tokenizer, lm.config.get_text_config().vocab_size)
        tied = bool(lm.config.tie_word_embeddings)
        for name, weight in lm.named_parameters():
            if not (tied and name == "lm_head.weight"):
                weight = _reorder(shape, name)(weight.detach().float().cpu())
                _add_tensor(writer, _gguf_name(shape, name), weight, dtype if weight.ndim > 1 else "float32")
    return Path(out)


def export_gguf_lora(desk: Desk, mix: Mix, out: Path | str, dtype: str | None = None) -> Path:
    """Write a mix as a LoRA adapter for the base that `export_gguf_base` writes; at scale 1 it is the mix.

    Coefficients and scalings are multiplied into B in float32. To write a single anchor, give a mix of it alone.

    Args:
        dtype: `float32`, `bfloat16` or `float16`; the base's own if None.

    Raises:
        InvalidValue: the mix is the base, or there is no such dtype.
        Unsupported: as for `export_gguf_base`, or an anchor adapts a module that llama.cpp cannot adapt.
    """
    lm, _ = _load(desk)
    shape = _shape(lm)
    dtype = _dtype(dtype, lm)
    modules = joined(desk, mix)
    if not modules:
        raise InvalidValue("This mix is the base model: there is no adapter to write.", "Move a slider.")
    alpha = max(a.shape[0] for a, _ in modules.values())
    with _writer(out) as writer:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_name(str(mix))
        writer.add_float32("adapter.lora.alpha", float(alpha))
        for module, (a, b) in modules.items():
            name = f"{module}.weight"
            if name == "lm_head.weight" and lm.config.tie_word_embeddings:
                raise Unsupported(
                    "An anchor adapts lm_head, which this base shares with its embedding.", "Adapt the layers alone."
                )
            target = _gguf_name(shape, name)
            # llama.cpp multiplies every module by alpha / rank, with the rank of that module.
            b = _reorder(shape, name)(b * (a.shape[0] / alpha))
            _add_tensor(writer, f"{target}.lora_a", a, dtype)
            _add_tensor(writer, f"{target}.lora_b", b, dtype)
    return Path(out)


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows `(heads * D, ...)` reordered: of each head from `0 .. D-1` to `0, D/2, 1, D/2+1, ...`."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class _Shape:
    """What names and row order of tensors depend on."""

    heads: int
    key_heads: int
    names: TensorNameMap


def _load(source: Desk | Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(source, Desk):
        return source.base_model, source.tokenizer
    return load_base(str(source), torch.device("cpu"), torch.float32)


def _dtype(dtype: str | None, lm: PreTrainedModel) -> str:
    dtype = dtype or str(lm.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise InvalidValue(f"There is no dtype {dtype!r} here.", f"Choose {', '.join(DTYPES)}.")
    return dtype


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise Unsupported("GGUF files need the gguf package.", "Install it: pip install gguf.") from error
    return gguf


def _shape(lm: PreTrainedModel) -> _Shape:
    """The shape of a model that llama.cpp's `llama` architecture can run; other models are refused."""
    gguf = _gguf()
    config = lm.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kind = config.model_type
    for wrong, reason in (
        (kind not in ("llama", "mistral"), f"it is a {kind} model"),
        (bool(getattr(config, "sliding_window", None)), "its attention slides"),
        (is_quantized(lm) is not None, "it is quantized"),
        (rope.get("rope_type", "default") != "default", f"its positions are scaled ({rope.get('rope_type')})"),
        (rope.get("partial_rotary_factor", 1.0) != 1.0, "it rotates a part of each head"),
        (getattr(config, "hidden_act", "silu") != "silu", "its MLP is not gated by SiLU"),
    ):
        if wrong:
            raise Unsupported(
                f"This base cannot be written as GGUF: {reason}.",
                "Export a merged model and convert it with llama.cpp's own convert_hf_to_gguf.py.",
            )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    return _Shape(config.num_attention_heads, config.num_key_value_heads, names)


def _gguf_name(shape: _Shape, name: str) -> str:
    found = shape.names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise Unsupported(f"llama.cpp's llama has no place for {name!r}.", "Choose a plain Llama model.")
    return found


def _reorder(shape: _Shape, name: str) -> Callable[[Tensor], Tensor]:
    """The function that reorders the rows of the tensor `name`."""
    heads = {"q_proj": shape.heads, "k_proj": shape.key_heads}.get(name.split(".")[-2])
    return (lambda rows: interleaved(rows, heads)) if heads else (lambda rows: rows)


@contextmanager
def _writer(out: Path | str) -> Iterator[GGUFWriter]:
    """A writer whose file appears at `out` when it is complete."""
    gguf, out = _gguf(), Path(out)
    part = out.with_name(out.name + ".part")
    writer = gguf.GGUFWriter(part, ARCHITECTURE)
    try:
        yield writer
        out.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(out)
    except OSError as error:
        raise BadArtifact(f"{out} cannot be written: {error}.", "Give another path.") from error
    finally:
        part.unlink(missing_ok=True)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, dtype: str) -> None:
    gguf = _gguf()
    kind = gguf.GGMLQuantizationType[NAMES[dtype]]
    writer.add_tensor(name, gguf.quants.quantize(tensor.contiguous().numpy(), kind), raw_dtype=kind)


def _add_shape(writer: GGUFWriter, lm: PreTrainedModel) -> None:
    config = lm.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Add a byte-level BPE tokenizer, llama.cpp's `gpt2`; ids below `size` without a token get an unused one."""
    kinds = _gguf().TokenType
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    record = json.loads(backend.to_str())
    split = _split(record)
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [kinds.UNUSED] * size
    for token, index in record["model"]["vocab"].items():
        tokens[index], types[index] = token, kinds.NORMAL
    for added in record["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in record["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges or [f"{tokens[-2]} {tokens[-1]}"])  # llama.cpp needs at least one
    for kind in ("bos", "eos", "pad", "unk"):
        index: Any = getattr(tokenizer, f"{kind}_token_id")
        if index is not None:
            getattr(writer, f"add_{kind}_token_id")(index)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)


def _split(record: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer splits text into words; others are refused."""
    first = record["pre_tokenizer"] or {}
    steps = first.get("pretokenizers", [first])
    splits = "".join(step["pattern"].get("Regex", "?") for step in steps if step.get("type") == "Split")
    bytewise = any(step.get("type") == "ByteLevel" and not step["add_prefix_space"] for step in steps)
    known = {step.get("type") for step in steps} <= {"Split", "ByteLevel"} and splits in SPLITS
    if record["model"]["type"] != "BPE" or not bytewise or not known or record["normalizer"]:
        raise Unsupported(
            "The base's tokenizer cuts words in a way that is not known here for GGUF.",
            "Convert the model with llama.cpp's own convert_hf_to_gguf.py.",
        )
    return SPLITS[splits]
