"""The resident base model with its anchors: text to tokens, tokens to logits. Knows nothing of sessions or sampling."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixer.adapters.anchor_set import AnchorSet
from mixer.errors import Unsupported
from mixer.model.backend import Backend
from mixer.model.chat_template import chat_ids, plain_ids
from mixer.model.cpu_backend import CpuBackend, unsupported
from mixer.model.torch_backend import TorchBackend
from mixer.values.chat import Conversation

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
        backend: runs the forward passes; use it only under `lock`.
        embedding: the output embedding, `(V, D)`, in the model's dtype.
        vocab: the number of tokens that have logits, V.
        lock: held during passes, since several threads may use one model.
        order: locks of several models are taken in the order of this number.
        wants_native: whether the compiled backend was asked for.
        native_refusal: why the compiled backend was asked for and cannot run this model; None otherwise.
        eos_ids: tokens that end a text.
    """

    def __init__(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, anchors: AnchorSet, native: bool = True
    ) -> None:
        self.lm, self.tokenizer = lm, tokenizer
        self.device, self.dtype = lm.device, lm.dtype
        self.anchors = tuple(adapter.anchor.name for adapter in anchors.adapters)
        config = lm.config.get_text_config()
        unknown = set(getattr(config, "layer_types", None) or ()) - ATTENTION
        if unknown:
            raise Unsupported(
                f"The base model has layers of the kind {', '.join(sorted(unknown))}, which keep a state that cannot "
                "be recomputed for one row.",
                "Choose a base whose layers are attention.",
            )
        self.context = int(getattr(config, "max_position_embeddings", None) or 2048)
        parts = [adapter.parts for adapter in anchors.adapters]
        self.wants_native = native
        self.native_refusal = unsupported(lm, parts) if native else None
        kind = CpuBackend if native and self.native_refusal is None else TorchBackend
        self.backend: Backend = kind(lm, parts, rows=1 + MOST_ROWS)
        head: Any = lm.get_output_embeddings()
        self.embedding: Tensor = head.weight.detach()
        self.vocab: int = self.embedding.shape[0]
        self.lock, self.order = threading.Lock(), next(_order)
        eos: Any = lm.generation_config.eos_token_id if lm.generation_config else None
        ids: list[Any] = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
        ids = [one for one in ids if one is not None]
        # Some configurations name tokens that the model does not have.
        self.eos_ids = frozenset(int(one) for one in ids if 0 <= int(one) < self.vocab)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it. Control strings in it are plain text."""
        return plain_ids(self.tokenizer, text, special=True)

    @property
    def replies(self) -> bool:
        """Whether it can reply to a conversation: it has a chat template."""
        return bool(self.tokenizer.chat_template)

    def encode_chat(self, conversation: Conversation) -> list[int]:
        """Token ids of a conversation, up to where the reply begins; see `mixer.model.chat_template.chat_ids`."""
        return chat_ids(self.tokenizer, conversation)

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
        """The same logits, and the final state `(D,)`; with reward heads at these strengths, `(H,)`, in the logits."""
        backend = self.backend
        with self.lock:
            backend.reserve(1, len(ids))
            backend.gate[SCRATCH], backend.head_gate[SCRATCH] = coefficients, strengths
            try:
                logits = backend.forward(ids, [SCRATCH] * len(ids), range(len(ids)), [len(ids) - 1])
                return logits[0], backend.states[0]
            finally:
                backend.gate[SCRATCH] = backend.head_gate[SCRATCH] = None
