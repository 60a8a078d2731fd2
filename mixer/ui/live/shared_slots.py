"""Where the sliders of takes that other processes write stand: fixed slots in memory that forked processes share.

This process holds a `RemoteTake` to each such take and posts every move to its slot; the process that writes it reads the
slot as often as it likes. Slots are numbers under a checksum: what is read halfway through a write is not taken. A
slot that is used anew has another ticket, so that a process late to leave never sees the moves of the next one. Knows
neither Gradio nor a running text.
"""

from __future__ import annotations

import math
import struct
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import RawArray
from typing import TYPE_CHECKING

from mixer.errors import Busy
from mixer.ui.state.controls import DeckValue
from mixer.values.steering import Steering

if TYPE_CHECKING:
    from mixer.values.mix import Mix

SLOTS = 64  # takes in other processes at once
SUM = struct.Struct("=I")

Address = tuple[int, int]  # a slot and the ticket for it


@dataclass(frozen=True)
class SlotState:
    """What a slot says: where the sliders stand, and whether the take is to end."""

    value: DeckValue
    stopped: bool


class SharedSlots:
    """The slots of one desk; make it before any process is forked.

    Args:
        names: the attributes that have a slider. heads: the rewards that have one.
    """

    def __init__(self, names: Iterable[str], heads: Iterable[str], slots: int = SLOTS) -> None:
        self._names, self._heads = tuple(names), tuple(heads)
        # Ticket, stopped, sequence, budget and whether it counts the mix, decouple; a position of each attribute; a
        # position and a level of each reward. Doubles hold all of these exactly; NaN is no level, and no limit.
        self._form = struct.Struct(f"={6 + len(self._names) + 2 * len(self._heads)}d")
        self._size = SUM.size + self._form.size
        self._memory = memoryview(RawArray("B", slots * self._size)).cast("B")
        self._lock = threading.Lock()
        self._free = list(range(slots))[::-1]
        self._tickets = 0

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return len(self._free)

    def open(self) -> RemoteTake:
        """A line to a take that another process is about to write.

        Raises:
            Busy: every slot is held.
        """
        with self._lock:
            if not self._free:
                raise Busy("As many texts are being written as there is room for.", "Try again in a moment.")
            self._tickets += 1
            line = RemoteTake(self, (self._free.pop(), self._tickets))
        self._write(line.address, SlotState(DeckValue(), False))
        return line

    def read(self, address: Address) -> SlotState | None:
        """What is to be known of a take; None in the middle of a write. With an old ticket, that it is to end."""
        slot, ticket = address
        data = bytes(self._memory[slot * self._size : (slot + 1) * self._size])
        if SUM.unpack_from(data)[0] != zlib.crc32(data[SUM.size :]):
            return None
        found, stopped, seq, budget, whole, decouple, *rest = self._form.unpack_from(data, SUM.size)
        if found != ticket:
            return SlotState(DeckValue(), True)
        positions = dict(zip(self._names, rest, strict=False))
        rewards = dict(zip(self._heads, rest[len(self._names) :], strict=False))
        levels = dict(zip(self._heads, rest[len(self._names) + len(self._heads) :], strict=True))
        steering = Steering(
            rewards,
            {head: level for head, level in levels.items() if not math.isnan(level)},
            None if math.isnan(budget) else budget,
            bool(whole),
        )
        moved = {name: position for name, position in positions.items() if position}
        return SlotState(DeckValue(int(seq), moved, steering, bool(decouple)), bool(stopped))

    def post(self, address: Address, news: SlotState) -> None:
        """Says it to the process that writes the take, if it is still this take's slot."""
        with self._lock:
            if self._ticket(address[0]) == address[1]:
                self._write(address, news)

    def close(self, address: Address) -> None:
        """Ends the take, and lets the slot be used anew."""
        with self._lock:
            if self._ticket(address[0]) == address[1]:
                self._write((address[0], 0), SlotState(DeckValue(), True))
                self._free.append(address[0])

    def _ticket(self, slot: int) -> int:
        return int(self._form.unpack_from(self._memory, slot * self._size + SUM.size)[0])

    def _write(self, address: Address, news: SlotState) -> None:
        slot, ticket = address
        value, steering = news.value, news.value.steering
        budget = math.nan if steering.budget is None else steering.budget
        numbers = [ticket, news.stopped, value.seq, budget, steering.whole, value.decouple]
        numbers += [value.positions.get(name, 0.0) for name in self._names]
        numbers += [steering.positions.get(head, 0.0) for head in self._heads]
        numbers += [steering.levels.get(head, math.nan) for head in self._heads]
        data = self._form.pack(*numbers)
        self._memory[slot * self._size : (slot + 1) * self._size] = SUM.pack(zlib.crc32(data)) + data


class RemoteTake:
    """This process's end of a take that another one writes; what a `Live` steers in place of a `Take`."""

    def __init__(self, board: SharedSlots, address: Address) -> None:
        self._board = board
        self._news = SlotState(DeckValue(), False)
        self.address = address

    def note(self, value: DeckValue, mix: Mix) -> None:
        """Says where the sliders stand as the take begins."""
        self.apply(value, mix)

    def apply(self, value: DeckValue, mix: Mix) -> None:
        """Says that the sliders moved; the other process makes the mix of them itself."""
        self._news = SlotState(value, self._news.stopped)
        self._board.post(self.address, self._news)

    def stop(self) -> None:
        """Ends the take at its next token."""
        self._news = SlotState(self._news.value, True)
        self._board.post(self.address, self._news)

    def close(self) -> None:
        """Ends the take and gives its slot back."""
        self._board.close(self.address)
