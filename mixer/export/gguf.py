"""Base and mixes as GGUF files, which llama.cpp reads: the base model, and one mix as a LoRA adapter for it.

For Llama-shaped models in float32, bfloat16 or float16. The `gguf` package is optional. Knows nothing of how llama.cpp
runs them; quantizing is its own tools' work.

llama.cpp's `llama` rotates neighboring pairs of numbers where `transformers` rotates a head's two halves, so the rows
that make queries and keys change places on the way, in the base and in every adapter's B.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.desk import Desk
from mixer.errors import BadArtifact, InvalidValue, Unsupported
from mixer.model.base import DTYPES, is_quantized, load_base
from mixer.values.mix import Mix

if TYPE_CHECKING:
    from gguf import GGUFWriter, TensorNameMap

ARCHITECTURE = "llama"
NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

# How byte-level tokenizers cut text into words before they join bytes, and llama.cpp's name for it.
WORDS = {
    "": "gpt-2",  # tokenizers' own expression, which is that of GPT-2
    # The embedded base's: digits stand alone, and no merge joins two of them, so GPT-2's words come to the same tokens.
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
    lm, tokenizer = _parts(source)
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
    """Write one mix as one LoRA adapter for the base that `export_gguf_base` writes; scale 1 is the mix.

    Coefficients and scalings are multiplied into B in float32. One anchor is a mix with a single coefficient.

    Args:
        dtype: `float32`, `bfloat16` or `float16`; the base's own if None.

    Raises:
        InvalidValue: the mix is the base, or there is no such dtype.
        Unsupported: as for `export_gguf_base`, or an anchor adapts a module that llama.cpp cannot adapt.
    """
    lm, _ = _parts(desk)
    shape = _shape(lm)
    dtype = _dtype(dtype, lm)
    modules = _joined(desk, mix)
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
            # llama.cpp scales every module by alpha / rank, whatever its rank.
            b = _reorder(shape, name)(b * (a.shape[0] / alpha))
            _add_tensor(writer, f"{target}.lora_a", a, dtype)
            _add_tensor(writer, f"{target}.lora_b", b, dtype)
    return Path(out)


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """Rows `(heads * D, ...)`: a head's halves `0 .. D/2-1`, `D/2 .. D-1` become pairs `0, D/2, 1, D/2+1, ...`."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


class _Shape:
    """What the names and the order of tensors depend on."""

    def __init__(self, heads: int, key_heads: int, names: TensorNameMap) -> None:
        self.heads, self.key_heads, self.names = heads, key_heads, names


def _parts(source: Desk | Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
    """The shape of a model that llama.cpp's `llama` runs as it is; anything else is refused."""
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
    """What happens to the rows of the tensor `name`."""
    heads = {"q_proj": shape.heads, "k_proj": shape.key_heads}.get(name.split(".")[-2])
    return (lambda rows: interleaved(rows, heads)) if heads else (lambda rows: rows)


def _joined(desk: Desk, mix: Mix) -> dict[str, tuple[Tensor, Tensor]]:
    """The live anchors side by side: module -> A `(R, D_in)`, B `(D_out, R)` with coefficients and scalings inside."""
    sides: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for adapter, coefficient in zip(desk.anchor_set.adapters, mix.coefficients(desk.anchors), strict=True):
        if coefficient:
            for module, part in adapter.parts.items():
                side = part.a.float().cpu(), part.b.float().cpu() * (coefficient * part.scaling)
                sides.setdefault(module, []).append(side)
    if not sides:
        raise InvalidValue("This mix is the base model: there is no adapter to write.", "Move a slider.")
    return {module: (torch.cat([a for a, _ in s]), torch.cat([b for _, b in s], 1)) for module, s in sides.items()}


@contextmanager
def _writer(out: Path | str) -> Iterator[GGUFWriter]:
    """A writer whose file appears at `out` once it is whole."""
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
    """A byte-level BPE tokenizer, as llama.cpp's `gpt2` reads it; ids that no token has are filled up to `size`."""
    kinds = _gguf().TokenType
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    record = json.loads(backend.to_str())
    words = _words(record)
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [kinds.UNUSED] * size
    for token, index in record["model"]["vocab"].items():
        tokens[index], types[index] = token, kinds.NORMAL
    for added in record["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in record["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges or [f"{tokens[-2]} {tokens[-1]}"])  # llama.cpp asks for one at least
    for kind in ("bos", "eos", "pad", "unk"):
        index: Any = getattr(tokenizer, f"{kind}_token_id")
        if index is not None:
            getattr(writer, f"add_{kind}_token_id")(index)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)


def _words(record: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer cuts words."""
    first = record["pre_tokenizer"] or {}
    steps = first.get("pretokenizers", [first])
    splits = "".join(step["pattern"].get("Regex", "?") for step in steps if step.get("type") == "Split")
    bytewise = any(step.get("type") == "ByteLevel" and not step["add_prefix_space"] for step in steps)
    known = {step.get("type") for step in steps} <= {"Split", "ByteLevel"} and splits in WORDS
    if record["model"]["type"] != "BPE" or not bytewise or not known or record["normalizer"]:
        raise Unsupported(
            "The base's tokenizer cuts words in a way that is not known here for GGUF.",
            "Convert the model with llama.cpp's own convert_hf_to_gguf.py.",
        )
    return WORDS[splits]
