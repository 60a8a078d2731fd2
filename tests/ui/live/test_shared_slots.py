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
    board = SharedSlots(NAMES, HEADS, slots=2)
    line = board.open()
    assert board.read(line.address) == SlotState(DeckValue(), False)
    line.apply(value, Mix())
    assert board.read(line.address) == SlotState(value, False)
    if stopped:
        line.stop()
    line.apply(value, Mix())  # a move after the stop does not take it back
    assert board.read(line.address) == SlotState(value, stopped)


def test_half_a_write_is_never_taken() -> None:
    board, done = SharedSlots(NAMES, HEADS, slots=1), threading.Event()
    line = board.open()
    whole = [
        DeckValue(seq, dict.fromkeys(NAMES, position), Steering(dict.fromkeys(HEADS, position), budget=abs(position)))
        for seq, position in ((1, 1.0), (2, -0.5))
    ]
    line.note(whole[0], Mix())

    def write() -> None:
        while not done.is_set():
            for value in whole:
                line.apply(value, Mix())

    writer = threading.Thread(target=write)
    writer.start()
    seen = [board.read(line.address) for _ in range(3000)]
    done.set()
    writer.join()
    assert all(news is None or news.value in whole for news in seen)
    assert {news.value.seq for news in seen if news} == {1, 2}


@given(at=st.integers(0, 4 + 8 * 13 - 1), flip=st.integers(1, 255))
def test_a_damaged_slot_is_not_taken(at: int, flip: int) -> None:
    board = SharedSlots(NAMES, HEADS, slots=1)
    line = board.open()
    board._memory[at] ^= flip
    assert board.read(line.address) is None


def test_slots_are_used_anew_and_an_old_ticket_only_hears_that_its_take_is_over() -> None:
    board = SharedSlots(NAMES, HEADS, slots=2)
    first, second = board.open(), board.open()
    with pytest.raises(Busy):
        board.open()
    first.close()
    first.close()
    assert board.free == 1
    third = board.open()
    assert third.address[0] == first.address[0]
    value = DeckValue(5, {"dry": 1.0})
    third.apply(value, Mix())
    first.apply(DeckValue(9, {"warm": 1.0}), Mix())
    first.stop()
    first.close()
    assert board.read(first.address) == SlotState(DeckValue(), True)
    assert board.read(third.address) == SlotState(value, False)
    assert board.read(second.address) == SlotState(DeckValue(), False)
    for line in (second, third):
        line.close()
    assert board.free == 2
