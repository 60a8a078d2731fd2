"""What every backend offers: forward passes over tokens of any rows, with a KV cache.

A row is a text in flight. Its keys, values and coefficients stay between calls. A call brings new tokens of some rows
and gives next-token logits. `TorchBackend` runs any model by its own `transformers` code. `CpuBackend` is compiled code
for Llama-shaped models on a CPU. Knows nothing of tokenizers, sessions or disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from mixer.model.gate import Gate


class Backend(Protocol):
    """A model with room for rows.

    Attributes:
        gate: the rows' coefficients; assign `gate[row]` between calls.
        head_gate: the rows' strengths of the reward heads, in nats a unit of reward; assign `head_gate[row]` likewise.
        heads: what `put_heads` was given; none at first.
        chunk: how many tokens of a long prompt to bring in one call, so that other rows need not wait long.
        states: final states of the last call's wanted tokens, `(len(wanted), D)` float32, without heads: logits are
            their products with the output embedding where no head is live.
    """

    gate: Gate
    head_gate: Gate
    heads: Sequence[tuple[Tensor, Tensor]]
    chunk: int
    states: Tensor

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for at least so many rows of so many tokens; the rows' keys and values stay."""
        ...

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Replace the reward heads by these, `(down (r, D), up (D, r))` each; `head_gate` is a new one, all at rest.

        Logits are those of `h + sum_a s_a up_a (down_a h)`, h the final state, s the row's strengths in `head_gate`.
        """
        ...

    def forward(
        self,
        ids: Sequence[int],
        rows: Sequence[int],
        positions: Sequence[int],
        wanted: Sequence[int],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """Run tokens through the model and cache their keys and values, in place of what the rows had from there on.

        Several tokens may stand at one position of a row as alternatives. Each attends to the tokens before that
        position and to itself, to none of the others.

        Args:
            ids, rows, positions: of each token; the tokens of one row side by side and in order.
            wanted: indices of the tokens whose next-token logits are wanted, ascending.
            slots: the cache column of each token in its row, without gaps, all different; the positions if None.
                Alternatives get slots behind all other tokens; one of them may have the slot of its position. Later
                calls do not see the alternatives.

        Returns:
            `(len(wanted), V)` float32.
        """
        ...

    def snapshot(self, row: int, length: int) -> Any:
        """A copy of a row's first `length` keys and values."""
        ...

    def restore(self, row: int, snapshot: Any, length: int) -> None:
        """Put the first `length` of a snapshot at the beginning of a row."""
        ...

    def clear(self) -> None:
        """Drop the keys and values of all rows, and free their memory."""
        ...

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """Fold a mix, `(K,)` coefficients, into a copy of the weights; other rows compute the difference to it.

        The base's own weights stay as they are; zeros mean them.
        """
        ...
