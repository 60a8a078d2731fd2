"""What every backend offers: forward passes over tokens of any rows, with their keys and values (the KV cache) kept.

A row is a text in flight. Its keys, values and coefficients stay between calls; a call brings new tokens of some rows
and gives next-token logits. `TorchBackend` runs any model by its own `transformers` code; `CpuBackend` is compiled, for
Llama-shaped models on a CPU. Knows nothing of tokenizers, sessions or disks.
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
        head_gate: the rows' strengths of the reward heads, in nats for one unit of reward; assign `head_gate[row]` likewise.
        heads: what `put_heads` was given; none at first.
        chunk: how many tokens of a long prompt to bring in one call, so that other rows need not wait long.
        batch_exact: whether a row's logits are the same bit for bit whatever else a call holds.
        states: of the last call's wanted tokens, `(len(wanted), D)` float32: what the output embedding multiplies where
            no head is live.
    """

    gate: Gate
    head_gate: Gate
    heads: Sequence[tuple[Tensor, Tensor]]
    chunk: int
    batch_exact: bool
    states: Tensor

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for at least so many rows of so many tokens; what rows hold stays."""
        ...

    def put_heads(self, heads: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Have these reward heads' `(down (r, D), up (D, r))` at hand, all at rest: `head_gate` is a new one.

        A row's logits are those of `h + sum_a s_a up_a (down_a h)`, with h its state and s its strengths in `head_gate`.
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
        """Run tokens through the model, and keep their keys and values in place of what the rows had from there on.

        Several tokens may stand at one position of a row as alternatives: each sees what stands before that position,
        and itself, but none of the others.

        Args:
            ids, rows, positions: of each token; the tokens of one row side by side and in order.
            wanted: indices of the tokens whose next-token logits are wanted, ascending.
            slots: where in its row each token's keys and values go, without gaps, no two to the same; the positions if
                None. Alternatives go behind all others but for one, which may have its position; the row goes on as if
                they had never been.

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
        """Let go of what all rows hold, and of the room for it."""
        ...

    def fold(self, coefficients: tuple[float, ...]) -> None:
        """Compute with weights that have these coefficients in them, `(K,)`; rows with others run on the difference.

        The base's own weights stay as they are, and zeros go back to them.
        """
        ...
