"""The backend that runs any model: its own `transformers` code, with the LoRA adapters as forward hooks.

It runs on any device and at any precision. Knows nothing of tokenizers, sessions or disks.
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

from mixer.adapters.low_rank import LowRank, side_by_side
from mixer.model.gate import Gate
from mixer.model.lora_hooks import LoRAStack

TOGETHER = 16  # tokens a row; more are a prompt, and read alone
BESIDE = 32  # alternatives in one pass, each of which takes as much room as its row


@dataclass
class _Held:
    """One row's keys and values, each `(layers, heads, length, D)` as a list over layers."""

    keys: list[Tensor]
    values: list[Tensor]

    def first(self, length: int) -> _Held:
        return _Held([k[:, :length] for k in self.keys], [v[:, :length] for v in self.values])


class TorchBackend:
    """Any causal LM whose layers are attention, by its own code.

    Rows that decode together are one batch, padded on the left, and stay assembled as long as the same rows go on.

    Args:
        lm: the base model; its modules get a forward hook each.
        adapters: each anchor's parts by module name, in coefficient order.
        rows: how many rows there may be.
    """

    chunk = 256
    batch_exact = False

    def __init__(self, lm: Any, adapters: Sequence[Mapping[str, LowRank]], rows: int) -> None:
        self._lm, self._device, self._dtype = lm, lm.device, lm.dtype
        self._stack, self._adapters = LoRAStack(lm, adapters, lm.dtype), adapters
        self._folded: dict[str, Parameter] = {}
        self.gate = Gate(self._stack.ranks, rows)
        self._held: dict[int, _Held] = {}
        self._batch: tuple[int, ...] = ()
        self._lengths: tuple[int, ...] = ()  # tokens that each row of the batch holds
        self._cache = DynamicCache()
        self.states = self._seen = torch.zeros(0, 0)
        self._rows = rows
        self.put_heads(())
        lm.get_output_embeddings().register_forward_pre_hook(self._see)

    def _see(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        """Keep the states that logits are products of, and lift them where heads are live."""
        self._seen = args[0]
        if self._strengths is None:
            return None
        states = args[0].float()
        down_t, up_t, strengths = (tensor.to(states.device) for tensor in (*self._sides, self._strengths))
        return ((states + (states @ down_t * strengths[:, None]) @ up_t).to(args[0].dtype),)

    def reserve(self, rows: int, columns: int) -> None:
        """See `Network`; keys and values grow by themselves here."""

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """See `Network`."""
        self.heads: Sequence[tuple[Tensor, Tensor]] = tuple(heads)
        self.head_gate = Gate([down.shape[0] for down, _ in heads], self._rows)
        down, up = side_by_side(heads, self._lm.config.get_text_config().hidden_size)
        self._sides = down.T.to(self._device), up.T.to(self._device)
        self._strengths: Tensor | None = None  # of the rows of a pass under way, `(B, R)`

    @torch.inference_mode()
    def forward(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """See `Network`."""
        results: dict[int, tuple[Tensor, Tensor]] = {}  # logits and state
        alike: dict[int, list[list[int]]] = {}  # rows that go on by as many tokens, as indices
        slots = positions if slots is None else slots
        in_place = [index for index, slot in enumerate(slots) if slot == positions[index]]
        apart = [index for index, slot in enumerate(slots) if slot != positions[index]]
        for _, group in groupby(in_place, key=lambda index: rows[index]):
            own = list(group)
            if positions[own[0]] > 0 and len(own) <= TOGETHER:
                alike.setdefault(len(own), []).append(own)
            else:
                logits = self._fill(rows[own[0]], [ids[index] for index in own], positions[own[0]])
                results |= dict(zip(own, zip(logits, self._seen[0], strict=True), strict=True))
        for groups in alike.values():
            logits = self._decode(
                [[ids[index] for index in own] for own in groups],
                tuple(rows[own[0]] for own in groups),
                tuple(positions[own[0]] for own in groups),
            )
            for own, row, states in zip(groups, logits, self._seen, strict=True):
                results |= dict(zip(own, zip(row, states, strict=True), strict=True))
        for (row, position), group in groupby(apart, key=lambda index: (rows[index], positions[index])):
            own = list(group)
            for few in (own[at : at + BESIDE] for at in range(0, len(own), BESIDE)):
                logits = self._branch(row, [ids[index] for index in few], position)
                results |= dict(zip(few, zip(logits, self._seen[:, 0], strict=True), strict=True))
        if not wanted:
            head = self._lm.get_output_embeddings().weight
            self.states = torch.zeros(0, head.shape[1])
            return torch.zeros(0, head.shape[0])
        logits, states = zip(*(results[index] for index in wanted), strict=True)
        self.states = torch.stack(states).float()
        return torch.stack(logits).float()

    def snapshot(self, row: int, length: int) -> _Held:
        """See `Network`."""
        self._take_apart()
        held = self._held[row].first(length)
        return _Held([k.clone() for k in held.keys], [v.clone() for v in held.values])

    def restore(self, row: int, snapshot: _Held, length: int) -> None:
        """See `Network`."""
        self._take_apart()
        self._held[row] = snapshot.first(length)

    def clear(self) -> None:
        """See `Network`."""
        self._held, self._batch, self._lengths, self._cache = {}, (), (), DynamicCache()

    @torch.inference_mode()
    def fold(self, coefficients: tuple[float, ...]) -> None:
        """See `Network`; float32 sums from the base's weights, rounded once."""
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
        """A pass inside runs with what these rows have: folded weights, adapters, heads.

        The folded weights stand in the modules' places for that pass alone: whoever looks at the model sees the base.
        """
        own = {name: self._lm.get_submodule(name) for name in self._folded}
        base = {name: module._parameters["weight"] for name, module in own.items()}
        try:
            for name, module in own.items():
                module._parameters["weight"] = self._folded[name]
            self._strengths = self.head_gate.values[list(rows)] if self.head_gate.live(rows).size else None
            with self._stack.applied(self._gate(rows)):
                yield
        finally:
            self._strengths = None
            for name, module in own.items():
                module._parameters["weight"] = base[name]

    def _fill(self, row: int, ids: list[int], start: int) -> Tensor:
        """Several tokens of one row, `(T, V)`."""
        cache = self._begun(row, start)
        with self._applied([row]):
            logits = self._lm(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=torch.arange(start, start + len(ids), device=self._device)[None],
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        layers: list[Any] = list(cache.layers)
        self._held[row] = _Held([layer.keys[0] for layer in layers], [layer.values[0] for layer in layers])
        return logits

    def _branch(self, row: int, ids: list[int], position: int) -> Tensor:
        """Tokens at one position of one row, each for itself, `(k, V)`; nothing is kept."""
        count = len(ids)
        cache = self._begun(row, position, count)
        with self._applied([row] * count):
            return self._lm(
                input_ids=torch.tensor(ids, device=self._device)[:, None],
                position_ids=torch.full((count, 1), position, device=self._device),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, 0]

    def _begun(self, row: int, length: int, times: int = 1) -> DynamicCache:
        """A row's first tokens, as a batch of so many of it."""
        self._take_apart()
        cache = DynamicCache()
        if length:
            held = self._held[row].first(length)
            for layer, (keys, values) in enumerate(zip(held.keys, held.values, strict=True)):
                cache.update(keys.expand(times, -1, -1, -1), values.expand(times, -1, -1, -1), layer)
        return cache

    def _decode(self, ids: list[list[int]], rows: tuple[int, ...], positions: tuple[int, ...]) -> Tensor:
        """As many tokens of each row, `(B, T)`, the first at these positions; `(B, T, V)`."""
        longest, count = max(positions), len(ids[0])
        if rows == self._batch and self._ahead_of(positions):
            self._crop(longest)  # what was guessed wrong goes
        else:
            self._assemble(rows, positions)
        pads = torch.tensor([[longest - position] for position in positions])
        mask = torch.arange(longest + count)[None] >= pads if min(positions) < longest else None
        places = torch.tensor(positions)[:, None] + torch.arange(count)
        self._lengths = positions
        try:
            with self._applied(rows):
                logits = self._lm(
                    input_ids=torch.tensor(ids, device=self._device),
                    attention_mask=None if mask is None else mask.long().to(self._device),
                    position_ids=places.to(self._device),
                    past_key_values=self._cache,
                    use_cache=True,
                ).logits
        except BaseException:
            self._crop(longest)  # some layers have the new tokens already
            raise
        self._lengths = tuple(position + count for position in positions)
        return logits

    def _crop(self, length: int) -> None:
        """Leave the batch with its first columns."""
        layers: list[Any] = list(self._cache.layers)
        for layer in layers:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    def _ahead_of(self, positions: tuple[int, ...]) -> bool:
        """Whether all rows of the batch hold these positions, and equally many more."""
        ahead = {length - position for length, position in zip(self._lengths, positions, strict=True)}
        return len(ahead) == 1 and min(ahead) >= 0

    def _gate(self, rows: Sequence[int]) -> Tensor | None:
        """The rows' coefficients, `(B, R)`; None where all are the base, so that the stack costs nothing."""
        if not self.gate.live(rows).size:
            return None
        return self.gate.values[list(rows)].to(self._device, self._dtype)

    def _assemble(self, rows: tuple[int, ...], lengths: tuple[int, ...]) -> None:
        """Rows side by side, their first `lengths` tokens padded on the left."""
        self._take_apart()
        parts = [self._held[row].first(length) for row, length in zip(rows, lengths, strict=True)]
        self._cache = DynamicCache()
        for layer in range(len(parts[0].keys)):
            self._cache.update(
                _padded([part.keys[layer] for part in parts]), _padded([part.values[layer] for part in parts]), layer
            )
        self._batch, self._lengths = rows, lengths

    def _take_apart(self) -> None:
        """Give the batch's rows back what they hold."""
        layers: list[Any] = list(self._cache.layers)
        for index, (row, length) in enumerate(zip(self._batch, self._lengths, strict=True)):
            self._held[row] = _Held(
                [layer.keys[index, :, layer.keys.shape[-2] - length :] for layer in layers],
                [layer.values[index, :, layer.values.shape[-2] - length :] for layer in layers],
            )
        self._batch, self._lengths, self._cache = (), (), DynamicCache()


def _padded(parts: list[Tensor]) -> Tensor:
    """Tensors `(heads, length, D)` as one `(B, heads, longest, D)`, padded on the left."""
    longest = max(part.shape[1] for part in parts)
    return torch.stack([torch.nn.functional.pad(part, (0, 0, longest - part.shape[1], 0)) for part in parts])
