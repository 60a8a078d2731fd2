"""Deck values and stops for takes that other processes write, in memory that forked processes share.

The server holds a `RemoteTake` for each such take and writes every move into the take's slot; the process that writes
the text reads the slot as often as it likes. A slot is an array of numbers with a checksum, so that a slot read in the
middle of a write is not used. A slot that is used again has a new ticket, so that the process of the earlier take never
reads the moves of the later one. Knows neither Gradio nor a running text.
"""

from __future__ import annotations

import math
import struct
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import RawArray
from typing import TYPE_CHECKING, Any

from mixer.errors import Busy
from mixer.ui.state.controls import DeckValue, read_value
from mixer.ui.state.page_state import DECK
from mixer.values.request import FIELDS

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
        # One double for the ticket, for `stopped`, for the sequence number, for each of the deck's single fields, and
        # for each slider of its others. Doubles hold all of these exactly. NaN is a number that is not there.
        self._sliders = {
            name: self._names if name == "positions" else self._heads if FIELDS[name].kind is dict else ("",)
            for name in DECK
        }
        self._form = struct.Struct(f"={3 + sum(map(len, self._sliders.values()))}d")
        self._size = SUM.size + self._form.size
        self.memory = memoryview(RawArray("B", slots * self._size)).cast("B")
        self._lock = threading.Lock()
        self._free = list(range(slots))[::-1]
        self._tickets = 0

    @property
    def free(self) -> int:
        """How many slots nobody holds."""
        return len(self._free)

    def open(self) -> RemoteTake:
        """A take that another process is about to write, with a slot of its own.

        Raises:
            Busy: every slot is held.
        """
        with self._lock:
            if not self._free:
                raise Busy("As many texts are being written as there is room for.", "Try again in a moment.")
            self._tickets += 1
            take = RemoteTake(self, (self._free.pop(), self._tickets))
        self._write(take.address, SlotState(DeckValue(), False))
        return take

    def read(self, address: Address) -> SlotState | None:
        """The state of a take; None in the middle of a write. An old ticket gives a stopped take."""
        slot, ticket = address
        data = bytes(self.memory[slot * self._size : (slot + 1) * self._size])
        if SUM.unpack_from(data)[0] != zlib.crc32(data[SUM.size :]):
            return None
        found, stopped, seq, *numbers = self._form.unpack_from(data, SUM.size)
        if found != ticket:
            return SlotState(DeckValue(), True)
        posted: dict[str, Any] = {"seq": int(seq)}
        for name, sliders in self._sliders.items():
            own, numbers = numbers[: len(sliders)], numbers[len(sliders) :]
            if FIELDS[name].kind is dict:
                posted[name] = {key: x for key, x in zip(sliders, own, strict=True) if not math.isnan(x)}
            else:
                posted[name] = None if math.isnan(own[0]) else FIELDS[name].kind(own[0])
        return SlotState(read_value(posted, self._names, self._heads), bool(stopped))

    def write(self, address: Address, state: SlotState) -> None:
        """Tells the process that writes the take, if the slot is still this take's."""
        with self._lock:
            if self._ticket(address[0]) == address[1]:
                self._write(address, state)

    def close(self, address: Address) -> None:
        """Ends the take, and frees the slot."""
        with self._lock:
            if self._ticket(address[0]) == address[1]:
                self._write((address[0], 0), SlotState(DeckValue(), True))
                self._free.append(address[0])

    def _ticket(self, slot: int) -> int:
        return int(self._form.unpack_from(self.memory, slot * self._size + SUM.size)[0])

    def _write(self, address: Address, state: SlotState) -> None:
        slot, ticket = address
        numbers, values = [ticket, state.stopped, state.value.seq], state.value.json()
        for name, sliders in self._sliders.items():
            if FIELDS[name].kind is dict:
                numbers += [values[name].get(key, math.nan) for key in sliders]
            else:
                numbers.append(math.nan if values[name] is None else values[name])
        data = self._form.pack(*numbers)
        self.memory[slot * self._size : (slot + 1) * self._size] = SUM.pack(zlib.crc32(data)) + data


class RemoteTake:
    """The server's end of a take that another process writes; a `BrowserSession` steers it like a `Take`."""

    def __init__(self, slots: SharedSlots, address: Address) -> None:
        self._slots = slots
        self._state = SlotState(DeckValue(), False)
        self.address = address

    def note(self, value: DeckValue, mix: Mix) -> None:
        """Tells where the sliders stand as the take begins."""
        self.apply(value, mix)

    def apply(self, value: DeckValue, mix: Mix) -> None:
        """Tells that the sliders moved; the other process makes the mix from them itself."""
        self._state = SlotState(value, self._state.stopped)
        self._slots.write(self.address, self._state)

    def stop(self) -> None:
        """Ends the take at its next token."""
        self._state = SlotState(self._state.value, True)
        self._slots.write(self.address, self._state)

    def close(self) -> None:
        """Ends the take and frees its slot."""
        self._slots.close(self.address)
