"""The resident base model with its anchors: text to tokens, tokens to logits. Knows nothing of sessions or sampling."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.peft import AnchorSet
from mixer.errors import Unsupported
from mixer.model.backend import Backend
from mixer.model.cpu_backend import CpuBackend, unsupported
from mixer.model.torch_backend import TorchBackend

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
MOST_ROWS = 64  # texts in flight at once
SCRATCH = 0  # the row in which single distributions are computed; no text is written there

_order = itertools.count()


class Model:
    """The base model, its tokenizer, and the backend that computes with both base and anchors.

    Args:
        native: use the compiled backend where it can run this model; otherwise the model's own code.

    Attributes:
        anchors: names in coefficient order, `(K,)`.
        context: most tokens a row can hold.
        backend: what runs the tokens; only under `lock`.
        embedding: the output embedding, `(V, D)`, in the model's dtype.
        vocab: tokens that there are logits for, V.
        lock: many threads may drive one model.
        order: who takes the locks of several models takes them by this number.
        native_refusal: why the compiled backend cannot run this model; None where it does.
    """

    def __init__(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, anchors: AnchorSet, native: bool = True
    ) -> None:
        self.lm, self.tokenizer = lm, tokenizer
        self.device, self.dtype = lm.device, lm.dtype
        self.anchors = tuple(adapter.anchor.name for adapter in anchors.adapters)
        config = lm.config.get_text_config()
        odd = set(getattr(config, "layer_types", None) or ()) - ATTENTION
        if odd:
            raise Unsupported(
                f"The base model has layers of the kind {', '.join(sorted(odd))}, which keep a state that cannot be "
                "recomputed for one row.",
                "Choose a base whose layers are attention.",
            )
        self.context = int(getattr(config, "max_position_embeddings", None) or 2048)
        parts = [adapter.parts for adapter in anchors.adapters]
        self.native_refusal = unsupported(lm, parts) if native else "not asked for"
        kind = TorchBackend if self.native_refusal else CpuBackend
        self.backend: Backend = kind(lm, parts, rows=1 + MOST_ROWS)
        head: Any = lm.get_output_embeddings()
        self.embedding: Tensor = head.weight.detach()
        self.vocab: int = self.embedding.shape[0]
        self.lock, self.order = threading.Lock(), next(_order)
        eos = lm.generation_config.eos_token_id if lm.generation_config else None
        eos = tokenizer.eos_token_id if eos is None else eos
        ids: list[Any] = [] if eos is None else eos if isinstance(eos, list) else [eos]
        # Some configurations name tokens that the model does not have.
        self.eos_ids = frozenset(int(one) for one in ids if 0 <= int(one) < self.vocab)

    def encode(self, text: str) -> list[int]:
        """Token ids as the tokenizer gives them, special tokens included."""
        return list(self.tokenizer(text).input_ids)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer as the `tokenizers` library knows it, for decoding as a stream."""
        return self.tokenizer.backend_tokenizer  # type: ignore[return-value]

    def logits(self, ids: Sequence[int], coefficients: tuple[float, ...]) -> Tensor:
        """Next-token logits `(V,)` float32 after `ids`, under these coefficients, `(K,)`."""
        return self.read(ids, coefficients)[0]

    def read(
        self, ids: Sequence[int], coefficients: tuple[float, ...], strengths: tuple[float, ...] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, and the state `(D,)` that they are products of; with fused heads at these strengths, `(H,)`."""
        backend = self.backend
        with self.lock:
            backend.reserve(1, len(ids))
            backend.gate[SCRATCH], backend.head_gate[SCRATCH] = coefficients, strengths
            try:
                logits = backend.forward(ids, [SCRATCH] * len(ids), range(len(ids)), [len(ids) - 1])
                return logits[0], backend.states[0]
            finally:
                backend.gate[SCRATCH] = backend.head_gate[SCRATCH] = None
