"""The backend for any model: the model's own `transformers` code, with the LoRA adapters as forward hooks.

It runs on any device and at any precision. Prompts are prefilled row by row. Rows that decode together are one batch.
Knows nothing of tokenizers, sessions or disks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from mixer.adapters.low_rank import LowRank, stack_pairs
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAHooks

DECODE_TOKENS = 16  # at most so many new tokens a row are decoded in a batch; more are a prompt, prefilled alone
BRANCHES = 32  # alternatives in one pass; each takes as much memory as its whole row


@dataclass
class RowKV:
    """The keys and values of one row: a tensor `(heads, length, D)` for each layer."""

    keys: list[Tensor]
    values: list[Tensor]

    def prefix(self, length: int) -> RowKV:
        """The first `length` tokens, as views."""
        return RowKV([k[:, :length] for k in self.keys], [v[:, :length] for v in self.values])


class TorchBackend:
    """Any causal LM whose layers are attention, by its own code.

    Rows that decode together are gathered into one batch, padded on the left. The batch stays as long as the same rows
    go on; then its keys and values are scattered back to the rows.

    Args:
        lm: the base model; its modules get a forward hook each.
        adapters: each anchor's parts by module name, in coefficient order.
        rows: how many rows there may be.
    """

    chunk = 256

    def __init__(self, lm: Any, adapters: Sequence[Mapping[str, LowRank]], rows: int) -> None:
        self._lm, self._device, self._dtype = lm, lm.device, lm.dtype
        self._hooks, self._adapters = LoRAHooks(lm, adapters, lm.dtype), adapters
        self._folded: dict[str, Parameter] = {}  # folded weights by module name
        self.gate = Gate(self._hooks.ranks, rows)
        self._row_kv: dict[int, RowKV] = {}  # of rows outside the batch
        self._batch: tuple[int, ...] = ()  # rows whose keys and values are in `_batch_kv`
        self._lengths: tuple[int, ...] = ()  # tokens that each row of the batch holds
        self._batch_kv = DynamicCache()
        self.states = self._last_states = torch.zeros(0, 0)
        self._rows = rows
        self.put_heads(())
        lm.get_output_embeddings().register_forward_pre_hook(self._before_output)

    def _before_output(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """Keep the final states, and add to them what the live reward heads say."""
        self._last_states = args[0]
        if self._strengths is None:
            return None
        states = args[0].float()
        down_t, up_t, strengths = (tensor.to(states.device) for tensor in (*self._down_up, self._strengths))
        return ((states + (states @ down_t * strengths[:, None]) @ up_t).to(args[0].dtype),)

    def reserve(self, rows: int, columns: int) -> None:
        """See `Backend`; does nothing, since keys and values grow by themselves here."""

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """See `Backend`."""
        self.heads: Sequence[tuple[Tensor, Tensor]] = tuple(heads)
        self.head_gate = Gate([down.shape[0] for down, _ in heads], self._rows)
        down, up = stack_pairs(heads, self._lm.config.get_text_config().hidden_size)
        self._down_up = down.T.to(self._device), up.T.to(self._device)
        self._strengths: Tensor | None = None  # `(B, R)`, set during a pass

    @torch.inference_mode()
    def forward(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """See `Backend`."""
        results: dict[int, tuple[Tensor, Tensor]] = {}  # logits and state by index of the token
        decoding: dict[int, list[list[int]]] = {}  # by number of new tokens: of each row, the indices of its tokens
        slots = positions if slots is None else slots
        in_place = [index for index, slot in enumerate(slots) if slot == positions[index]]
        branching = [index for index, slot in enumerate(slots) if slot != positions[index]]
        for _, group in groupby(in_place, key=lambda index: rows[index]):
            own = list(group)
            if positions[own[0]] > 0 and len(own) <= DECODE_TOKENS:
                decoding.setdefault(len(own), []).append(own)
            else:
                logits = self._prefill(rows[own[0]], [ids[index] for index in own], positions[own[0]])
                results |= dict(zip(own, zip(logits, self._last_states[0], strict=True), strict=True))
        for groups in decoding.values():
            logits = self._decode(
                [[ids[index] for index in own] for own in groups],
                tuple(rows[own[0]] for own in groups),
                tuple(positions[own[0]] for own in groups),
            )
            for own, row, states in zip(groups, logits, self._last_states, strict=True):
                results |= dict(zip(own, zip(row, states, strict=True), strict=True))
        for (row, position), group in groupby(branching, key=lambda index: (rows[index], positions[index])):
            own = list(group)
            for few in (own[at : at + BRANCHES] for at in range(0, len(own), BRANCHES)):
                logits = self._branch(row, [ids[index] for index in few], position)
                results |= dict(zip(few, zip(logits, self._last_states[:, 0], strict=True), strict=True))
        if not wanted:
            head = self._lm.get_output_embeddings().weight
            self.states = torch.zeros(0, head.shape[1])
            return torch.zeros(0, head.shape[0])
        logits, states = zip(*(results[index] for index in wanted), strict=True)
        self.states = torch.stack(states).float()
        return torch.stack(logits).float()

    def snapshot(self, row: int, length: int) -> RowKV:
        """See `Backend`."""
        self._scatter()
        kv = self._row_kv[row].prefix(length)
        return RowKV([k.clone() for k in kv.keys], [v.clone() for v in kv.values])

    def restore(self, row: int, snapshot: RowKV, length: int) -> None:
        """See `Backend`."""
        self._scatter()
        self._row_kv[row] = snapshot.prefix(length)

    def clear(self) -> None:
        """See `Backend`."""
        self._row_kv, self._batch, self._lengths, self._batch_kv = {}, (), (), DynamicCache()

    @torch.inference_mode()
    def fold(self, coefficients: tuple[float, ...]) -> None:
        """See `Backend`; sums are float32, begin at the base's weights and are rounded once."""
        changed = {
            name
            for parts, old, new in zip(self._adapters, self.gate.folded, coefficients, strict=True)
            if old != new
            for name in parts
        }
        for name in changed:
            module = self._lm.get_submodule(name)
            weight, total = module.weight, None
            for parts, coefficient in zip(self._adapters, coefficients, strict=True):
                if coefficient and (part := parts.get(name)):
                    b, a = (side.to(weight.device, torch.float32) for side in (part.b, part.a))
                    delta = coefficient * part.scaling * (b @ a)
                    total = delta if total is None else total + delta
            if total is None:
                self._folded.pop(name, None)
            else:
                total = total.T if isinstance(module, Conv1D) else total
                self._folded[name] = Parameter((weight.float() + total).to(weight.dtype), requires_grad=False)
        self.gate.fold(coefficients)

    @contextmanager
    def _applied(self, rows: Sequence[int]):
        """A pass inside runs with the folded weights, and with these rows' adapters and heads.

        The modules have the folded weights during that pass alone: at any other time the model is the base.
        """
        own = {name: self._lm.get_submodule(name) for name in self._folded}
        base = {name: module._parameters["weight"] for name, module in own.items()}
        try:
            for name, module in own.items():
                module._parameters["weight"] = self._folded[name]
            self._strengths = self.head_gate.values[list(rows)] if self.head_gate.live(rows).size else None
            with self._hooks.applied(self._gate_values(rows)):
                yield
        finally:
            self._strengths = None
            for name, module in own.items():
                module._parameters["weight"] = base[name]

    def _prefill(self, row: int, ids: list[int], start: int) -> Tensor:
        """Logits `(T, V)` of T tokens of one row, which follow its first `start` tokens."""
        cache = self._copies(row, start)
        with self._applied([row]):
            logits = self._lm(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.arange(start, start + len(ids), device=self._device)[None],
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        layers: list[Any] = list(cache.layers)
        self._row_kv[row] = RowKV([layer.keys[0] for layer in layers], [layer.values[0] for layer in layers])
        return logits

    def _branch(self, row: int, ids: list[int], position: int) -> Tensor:
        """Logits `(k, V)` of k alternatives at one position of one row; their keys and values are not kept."""
        count = len(ids)
        cache = self._copies(row, position, count)
        with self._applied([row] * count):
            return self._lm(
                input_ids=torch.tensor(ids, device=self._device)[:, None],
                position_ids=torch.full((count, 1), position, device=self._device),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, 0]

    def _copies(self, row: int, length: int, count: int = 1) -> DynamicCache:
        """The first `length` tokens of a row, `count` times as a batch."""
        self._scatter()
        cache = DynamicCache()
        if length:
            kv = self._row_kv[row].prefix(length)
            for layer, (keys, values) in enumerate(zip(kv.keys, kv.values, strict=True)):
                cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), layer)
        return cache

    def _decode(self, ids: list[list[int]], rows: tuple[int, ...], positions: tuple[int, ...]) -> Tensor:
        """Logits `(B, T, V)` of T tokens of each of B rows, the first token of each row at its position."""
        longest, count = max(positions), len(ids[0])
        if rows == self._batch and self._can_crop(positions):
            self._crop(longest)  # drop rejected draft tokens
        else:
            self._gather(rows, positions)
        pads = torch.tensor([[longest - position] for position in positions])
        mask = torch.arange(longest + count)[None] >= pads if min(positions) < longest else None
        position_ids = torch.tensor(positions)[:, None] + torch.arange(count)
        self._lengths = positions
        try:
            with self._applied(rows):
                logits = self._lm(
                    input_ids=torch.tensor(ids, device=self._device),
                    attention_mask=None if mask is None else mask.long().to(self._device),
                    position_ids=position_ids.to(self._device),
                    past_key_values=self._batch_kv,
                    use_cache=True,
                ).logits
        except BaseException:
            self._crop(longest)  # some layers have the new tokens already
            raise
        self._lengths = tuple(position + count for position in positions)
        return logits

    def _crop(self, length: int) -> None:
        """Drop all columns of the batch behind the first `length`."""
        layers: list[Any] = list(self._batch_kv.layers)
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    def _can_crop(self, positions: tuple[int, ...]) -> bool:
        """Whether all rows of the batch hold these positions, and all the same number of tokens behind them."""
        behind = {length - position for length, position in zip(self._lengths, positions, strict=True)}
        return len(behind) == 1 and min(behind) >= 0

    def _gate_values(self, rows: Sequence[int]) -> Tensor | None:
        """The rows' coefficients `(B, R)`; None where all rows are the base, so that adapters cost nothing."""
        if not self.gate.live(rows).size:
            return None
        return self.gate.values[list(rows)].to(self._device, self._dtype)

    def _gather(self, rows: tuple[int, ...], lengths: tuple[int, ...]) -> None:
        """Make one batch of these rows' first `lengths` tokens, padded on the left."""
        self._scatter()
        own = [self._row_kv[row].prefix(length) for row, length in zip(rows, lengths, strict=True)]
        self._batch_kv = DynamicCache()
        for layer in range(len(own[0].keys)):
            self._batch_kv.update(
                _padded([kv.keys[layer] for kv in own]), _padded([kv.values[layer] for kv in own]), layer
            )
        self._batch, self._lengths = rows, lengths

    def _scatter(self) -> None:
        """Give every row of the batch its keys and values back; the batch is empty then."""
        layers: list[Any] = list(self._batch_kv.layers)
        for index, (row, length) in enumerate(zip(self._batch, self._lengths, strict=True)):
            self._row_kv[row] = RowKV(
                [layer.keys[index, :, layer.keys.shape[-2] - length :] for layer in layers],
                [layer.values[index, :, layer.values.shape[-2] - length :] for layer in layers],
            )
        self._batch, self._lengths, self._batch_kv = (), (), DynamicCache()


def _padded(parts: list[Tensor]) -> Tensor:
    """Tensors `(heads, length, D)` as one `(B, heads, longest, D)`, padded on the left."""
    longest = max(part.shape[1] for part in parts)
    return torch.stack([torch.nn.functional.pad(part, (0, 0, longest - part.shape[1], 0)) for part in parts])
