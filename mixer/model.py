"""The resident base model with its LoRA stack: one call scores B rows. Knows nothing of sessions or sampling.

Rows of different lengths are padded on the left; positions are counted from each row's own first token.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from mixer.anchors import AnchorSet
from mixer.errors import Unsupported
from mixer.lora import LoRAStack, Panel

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


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
