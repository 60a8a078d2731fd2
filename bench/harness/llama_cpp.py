"""llama.cpp as a peer, through its C interface: one model with LoRA adapters at scales, one decoded token a call.

It runs at its best: between two tokens, Python only makes the call and takes the argmax of the logits in place.
Threads, flash attention and the type of the KV cache are settings. `llama_cpp` is optional. Loads no torch.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixer.errors import BadArtifact, Unsupported


@dataclass(frozen=True)
class LlamaCppSettings:
    """Settings of a llama.cpp context that change its speed; `cache` is the type of keys and values."""

    threads: int = 1
    flash: bool = False
    cache: str = "float32"

    def __str__(self) -> str:
        attention = "flash attention" if self.flash else "plain attention"
        return f"{self.threads} threads, {attention}, {self.cache} cache"


class LlamaCpp:
    """A base model in GGUF with adapters and one context. All adapters are off at first.

    Raises:
        Unsupported: `llama_cpp` is not installed. BadArtifact: llama.cpp cannot load a file.
    """

    def __init__(self, base: Path | str, adapters: Sequence[Path | str] = (), context: int = 512) -> None:
        try:
            self._lib: Any = importlib.import_module("llama_cpp")
        except (ImportError, OSError, RuntimeError) as error:
            raise Unsupported("llama.cpp is not installed.", "pip install -r requirements-bench.txt") from error
        lib = self._lib
        self._quiet = lib.llama_log_callback(lambda point, text, data: None)
        lib.llama_log_set(self._quiet, None)
        lib.llama_backend_init()
        self._model = lib.llama_model_load_from_file(str(base).encode(), lib.llama_model_default_params())
        if not self._model:
            raise BadArtifact(f"llama.cpp cannot load {base}.", "Export it again.")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self._vocab)
        self.version = str(lib.__version__)
        self.system = lib.llama_print_system_info().decode()
        self._adapters: list[Any] = []
        self._live: Any = None  # C arrays of the live adapters and their scales
        self._scales: Any = None
        self._length, self._context = context, None
        for path in adapters:
            self.add_adapter(path)
        self.use(LlamaCppSettings())

    def add_adapter(self, path: Path | str) -> int:
        """Load one more adapter; returns its index in the scales."""
        adapter = self._lib.llama_adapter_lora_init(self._model, str(path).encode())
        if not adapter:
            raise BadArtifact(f"llama.cpp cannot load the adapter {path}.", "Export it again.")
        self._adapters.append(adapter)
        self._live = (self._lib.llama_adapter_lora_p_ctypes * len(self._adapters))()
        self._scales = (ctypes.c_float * len(self._adapters))()
        return len(self._adapters) - 1

    def use(self, settings: LlamaCppSettings) -> None:
        """Make a fresh context with these settings; all adapters are off."""
        lib = self._lib
        if self._context:
            lib.llama_free(self._context)
        kind = lib.GGML_TYPE_F32 if settings.cache == "float32" else lib.GGML_TYPE_F16
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = self._length
        options.n_threads = options.n_threads_batch = settings.threads
        options.flash_attn_type = int(settings.flash)
        options.type_k = options.type_v = kind
        options.offload_kqv, options.no_perf, options.n_seq_max = False, True, 1
        self._context = lib.llama_init_from_model(self._model, options)
        if not self._context:
            raise BadArtifact(f"llama.cpp cannot make a context with {settings}.", "Try other settings.")
        self._memory = lib.llama_get_memory(self._context)
        self._token = (lib.llama_token * 1)()
        self._one_token = lib.llama_batch_get_one(self._token, 1)
        self.set_scales([])

    def set_scales(self, scales: Sequence[float]) -> None:
        """Set the scales of the adapters in order; adapters at zero or beyond the list are off."""
        live = 0
        for adapter, scale in zip(self._adapters, scales, strict=False):
            if scale:
                self._live[live], self._scales[live] = adapter, scale
                live += 1
        self._lib.llama_set_adapters_lora(self._context, self._live, live, self._scales)

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Clear the KV cache and read a prompt; returns next-token logits `(V,)`, valid until the next call."""
        lib = self._lib
        lib.llama_memory_clear(self._memory, True)
        tokens = (lib.llama_token * len(ids))(*ids)
        self._decode(lib.llama_batch_get_one(tokens, len(ids)))
        return self._logits()

    def steps(self, token: int) -> Iterator[int]:
        """Greedy tokens after `token`, without an end.

        Raises:
            BadArtifact: the context is full.
        """
        decode, context, batch, next_token = self._lib.llama_decode, self._context, self._one_token, self._token
        next_token[0] = token
        self._decode(batch)
        logits = self._logits()  # the logits of every step lie at the same address
        while True:
            next_token[0] = token = int(logits.argmax())
            yield token
            if decode(context, batch):
                self._fail()

    def tokenize(self, text: str) -> list[int]:
        """Token ids by the tokenizer of llama.cpp, special tokens included."""
        raw, room = text.encode(), len(text.encode()) + 8
        tokens = (self._lib.llama_token * room)()
        return list(tokens[: self._lib.llama_tokenize(self._vocab, raw, len(raw), tokens, room, True, False)])

    def close(self) -> None:
        """Free the context, the model and its adapters."""
        if self._context:
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = None

    def _decode(self, batch: Any) -> None:
        if self._lib.llama_decode(self._context, batch):
            self._fail()

    def _fail(self) -> None:
        raise BadArtifact("llama.cpp could not decode.", "Give it a longer context.")

    def _logits(self) -> np.ndarray:
        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, -1), (self.vocab_size,))
