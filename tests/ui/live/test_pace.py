from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from mixer.ui.live.pace import RATE, URGENT, Pace, Tempo


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0.0, 0.2), st.booleans()), max_size=200))
def test_no_second_has_more_redraws_than_a_moving_hand_may_ask_for(ticks: list[tuple[float, bool]]) -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    drawn = []
    for wait, urgent in ticks:
        clock.now += wait
        if pace.due(urgent):
            drawn.append(clock.now)
    for start in drawn:
        assert sum(start <= at < start + 1 for at in drawn) <= URGENT + 2


@given(st.floats(1 / RATE, 10))
def test_an_urgent_redraw_right_after_an_ordinary_one_is_not_kept_waiting(wait: float) -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    clock.now += wait
    assert pace.due()
    assert not pace.due()
    assert pace.due(urgent=True)
    assert not pace.due(urgent=True)


def test_ordinary_redraws_come_at_the_rate() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    drawn = 0
    for _ in range(10_000):
        clock.now += 0.001
        drawn += pace.due()
    assert abs(drawn - 10 * RATE) <= 2


def test_tempo_holds_writing_to_its_rate_and_a_nudge_lets_the_next_token_go_at_once():
    nudge, started = threading.Event(), time.monotonic()
    tempo = Tempo(50)
    for _ in range(5):
        tempo.hold(nudge)
    assert time.monotonic() - started >= 5 / 50 - 0.005
    slow = Tempo(0.01)
    nudge.set()
    slow.hold(nudge)
    assert not nudge.is_set() and time.monotonic() - started < 20
    Tempo(0).hold(nudge)
