from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import Mix, Steering
from mixer.errors import Busy
from mixer.ui.live.shared_slots import SharedSlots, SlotState
from mixer.ui.state.controls import LIMIT, MAX_SEQ, DeckValue

NAMES, HEADS = ("calm", "dry", "warm"), ("calm", "toxic")
numbers = st.floats(-LIMIT, LIMIT).filter(bool)


@st.composite
def values(draw: st.DrawFn) -> DeckValue:
    levels = draw(st.dictionaries(st.sampled_from(HEADS), st.floats(0, 1)))
    rewards = draw(
        st.dictionaries(st.sampled_from([head for head in HEADS if head not in levels] or ["calm"]), numbers)
    )
    return DeckValue(
        draw(st.integers(0, MAX_SEQ)),
        draw(st.dictionaries(st.sampled_from(NAMES), numbers)),
        Steering(
            {head: position for head, position in rewards.items() if head not in levels},
            levels,
            draw(st.none() | st.floats(0, 20)),
            draw(st.booleans()),
        ),
        draw(st.booleans()),
    )


@given(value=values(), stopped=st.booleans())
def test_what_is_posted_is_what_is_read(value: DeckValue, stopped: bool) -> None:
    slots = SharedSlots(NAMES, HEADS, slots=2)
    remote = slots.open()
    assert slots.read(remote.address) == SlotState(DeckValue(), False)
    remote.apply(value, Mix())
    assert slots.read(remote.address) == SlotState(value, False)
    if stopped:
        remote.stop()
    remote.apply(value, Mix())  # a move after the stop does not take it back
    assert slots.read(remote.address) == SlotState(value, stopped)


def test_half_a_write_is_never_taken() -> None:
    slots, done = SharedSlots(NAMES, HEADS, slots=1), threading.Event()
    remote = slots.open()
    whole = [
        DeckValue(seq, dict.fromkeys(NAMES, position), Steering(dict.fromkeys(HEADS, position), budget=abs(position)))
        for seq, position in ((1, 1.0), (2, -0.5))
    ]
    remote.note(whole[0], Mix())

    def write() -> None:
        while not done.is_set():
            for value in whole:
                remote.apply(value, Mix())

    writer = threading.Thread(target=write)
    writer.start()
    seen = [slots.read(remote.address) for _ in range(3000)]
    done.set()
    writer.join()
    assert all(state is None or state.value in whole for state in seen)
    assert {state.value.seq for state in seen if state} == {1, 2}


@given(at=st.integers(0, 4 + 8 * 13 - 1), flip=st.integers(1, 255))
def test_a_damaged_slot_is_not_taken(at: int, flip: int) -> None:
    slots = SharedSlots(NAMES, HEADS, slots=1)
    remote = slots.open()
    slots.memory[at] ^= flip
    assert slots.read(remote.address) is None


def test_slots_are_used_anew_and_an_old_ticket_only_hears_that_its_take_is_over() -> None:
    slots = SharedSlots(NAMES, HEADS, slots=2)
    first, second = slots.open(), slots.open()
    with pytest.raises(Busy):
        slots.open()
    first.close()
    first.close()
    assert slots.free == 1
    third = slots.open()
    assert third.address[0] == first.address[0]
    value = DeckValue(5, {"dry": 1.0})
    third.apply(value, Mix())
    first.apply(DeckValue(9, {"warm": 1.0}), Mix())
    first.stop()
    first.close()
    assert slots.read(first.address) == SlotState(DeckValue(), True)
    assert slots.read(third.address) == SlotState(value, False)
    assert slots.read(second.address) == SlotState(DeckValue(), False)
    for remote in (second, third):
        remote.close()
    assert slots.free == 2
