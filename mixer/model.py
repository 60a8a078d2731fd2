"""The resident base model with its LoRA stack: one call scores B rows. Knows nothing of sessions or sampling.

Rows of different lengths are padded on the left; positions are counted from each row's own first token.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from mixer.anchors import AnchorSet
from mixer.errors import BadArtifact, InvalidValue, Unsupported
from mixer.lora import LoRAStack, Panel

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str = "auto") -> torch.device:
    """The device by name; `auto` takes CUDA, then Apple's, then the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValue(f"The device {device!r} cannot be used: {reason}", "Try auto, cpu or cuda.") from error


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype by name; `auto` is float32 on a CPU, where the laws hold most closely, and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise InvalidValue(f"There is no dtype {dtype!r} here.", f"Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_base(base: str, device: torch.device, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM and its tokenizer, from a local folder or a hub id.

    Raises:
        BadArtifact: it is not there, not complete, or no causal LM. Pickled weights are never read.
    """
    if _is_path(base) and not Path(base).is_dir():
        raise BadArtifact(f"There is no base model at {base}.", "Give a folder or hub id of a causal LM.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        lm = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, device_map={"": device}, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadArtifact(
            f"The base model {base!r} cannot be loaded: {reason}",
            "Give a folder or hub id of a causal LM with safetensors.",
        ) from error
    if not tokenizer.is_fast:
        raise Unsupported(f"The tokenizer of {base!r} is a slow one.", "Convert it to a tokenizer.json.")
    return lm.eval(), tokenizer


class Model:
    """The base model, its tokenizer, and the anchors' stack.

    Attributes:
        anchors: names in coefficient order, `(K,)`.
        context: most tokens a row can hold.
        lock: held through every forward pass; many threads may drive one model.
    """

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, anchors: AnchorSet) -> None:
        self.lm, self.tokenizer = lm, tokenizer
        self.device, self.dtype = lm.device, lm.dtype
        self.anchors = tuple(adapter.anchor.name for adapter in anchors.adapters)
        self.stack = LoRAStack(lm, [adapter.parts for adapter in anchors.adapters], self.device, self.dtype)
        config = lm.config.get_text_config()
        odd = set(getattr(config, "layer_types", None) or ()) - ATTENTION
        if odd:
            raise Unsupported(
                f"The base model has layers of the kind {', '.join(sorted(odd))}, which keep a state that cannot be "
                "recomputed for one row.",
                "Choose a base whose layers are attention.",
            )
        self.context = int(getattr(config, "max_position_embeddings", None) or 2048)
        self.lock = threading.Lock()
        eos = lm.generation_config.eos_token_id if lm.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        ids: list[Any] = [] if eos is None else eos if isinstance(eos, list) else [eos]
        self.eos_ids: frozenset[int] = frozenset(map(int, ids))

    def encode(self, text: str) -> list[int]:
        """Token ids as the tokenizer gives them, special tokens included."""
        return list(self.tokenizer(text).input_ids)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer as the `tokenizers` library knows it, for decoding as a stream."""
        return self.tokenizer.backend_tokenizer  # type: ignore[return-value]

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], panel: Panel) -> Tensor:
        """Next-token logits `(V,)` float32 after `ids`, under the panel's only row, without a cache."""
        rows = torch.tensor([list(ids)], device=self.device)
        with self.lock, self.stack.applied(panel.gate):
            return self.lm(input_ids=rows, use_cache=False, logits_to_keep=1).logits[0, -1].float()


class Rows:
    """A batch in flight: the token rows, their gate, and their keys and values.

    The cache always holds all tokens of each row but the last.
    """

    def __init__(self, model: Model, ids: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.ids = [list(row) for row in ids]
        self.panel = model.stack.panel(len(self.ids))
        self._cache: DynamicCache | None = None

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Next-token logits of every row, `(B, V)` float32: one forward pass over the tokens not yet in the cache."""
        length = max(map(len, self.ids))
        pads = [length - len(row) for row in self.ids]
        if self._cache is None:
            self._cache = DynamicCache()
            rows = torch.tensor([[0] * pad + row for pad, row in zip(pads, self.ids, strict=True)])
        else:
            rows = torch.tensor([row[-1:] for row in self.ids])
        padding = torch.tensor(pads)[:, None]
        columns = torch.arange(length)[None]
        mask = (columns >= padding).long().to(self.model.device) if any(pads) else None
        positions = (columns[:, -rows.shape[1] :] - padding).clamp_min(0)
        with self.model.lock, self.model.stack.applied(self.panel.gate):
            return (
                self.model.lm(
                    input_ids=rows.to(self.model.device),
                    attention_mask=mask,
                    position_ids=positions.to(self.model.device),
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )

    def append(self, row: int, token: int) -> None:
        """Write a token to a row; every row gets one between two calls of `logits`."""
        self.ids[row].append(token)

    @torch.inference_mode()
    def refill(self, row: int, ids: Sequence[int] | None = None) -> None:
        """Recompute one row's keys and values under its present gate, for new, no longer `ids` if given."""
        if ids is not None:
            self.ids[row] = list(ids)
        if self._cache is None:
            return
        known = self.ids[row][:-1]
        if known:
            fresh = DynamicCache()
            with self.model.lock, self.model.stack.applied(self.panel.row(row)):
                tokens = torch.tensor([known], device=self.model.device)
                self.model.lm(input_ids=tokens, past_key_values=fresh, use_cache=True, logits_to_keep=1)
            for old, new in zip(_layers(self._cache), _layers(fresh), strict=True):
                old.keys[row, :, -len(known) :] = new.keys[0]
                old.values[row, :, -len(known) :] = new.values[0]
        self._trim()

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order."""
        self.ids = [self.ids[row] for row in rows]
        self.panel.select(rows)
        if self._cache is not None and rows:
            self._cache.batch_select_indices(torch.tensor(rows, device=self.model.device))
            self._trim()

    def _trim(self) -> None:
        """Cut off columns that are padding in every row."""
        assert self._cache is not None
        length = max(map(len, self.ids)) - 1
        for layer in _layers(self._cache):
            start = layer.keys.shape[-2] - length
            layer.keys, layer.values = layer.keys[:, :, start:], layer.values[:, :, start:]


def _layers(cache: DynamicCache) -> list[Any]:
    """The layers with their `keys` and `values`, `(B, heads, length, D)`; sliding windows are kept whole too."""
    return list(cache.layers)


def _is_path(name: str) -> bool:
    """Whether a name cannot be a hub id, which is NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def local_folder(name: str) -> Path:
    """A folder by path, or fetched from the hub where `name` has the form OWNER/NAME and is no path here.

    Raises:
        BadArtifact: it is neither.
    """
    path = Path(name)
    if path.is_dir():
        return path
    reason = "it has not the form OWNER/NAME of a hub id either"
    if not _is_path(name):
        try:
            return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.yaml"]))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            reason = "the hub did not give it either: " + " ".join(str(error).split())[:200]
    raise BadArtifact(f"There is no folder {name}; {reason}.", "Check the path.")
