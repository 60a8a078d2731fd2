from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import MixerError
from mixer.ui.state.controls import LIMIT, MOST_TOKENS
from mixer.ui.state.link import MOST_PARTS, read_query, write_query
from mixer.ui.state.page_state import PageState, read_state
from mixer.values.request import FIELDS
from mixer.values.steering import REST, Steering

NAMES = ("formality", "humor", "seed", "r.x", "__odd", "p", "a b&c=d")  # some of them mean something in a link
HEADS: tuple[str, ...] = ("humor", "toxicity", "x.y")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
position = st.floats(-LIMIT, LIMIT).filter(bool)


@st.composite
def steerings(draw: st.DrawFn) -> Steering:
    rewards = draw(st.dictionaries(st.sampled_from(HEADS), st.floats(-3, 3).filter(bool)))
    levels = draw(st.dictionaries(st.sampled_from(HEADS), st.floats(0, 1)))
    levels = {name: level for name, level in levels.items() if name not in rewards}
    return Steering(rewards, levels, draw(st.none() | st.floats(0, 20)), draw(st.booleans()))


states = st.builds(
    PageState,
    prompt=text,
    formula=text,
    positions=st.dictionaries(st.sampled_from(NAMES), position),
    steering=steerings() | st.just(Steering()),
    mode=st.sampled_from(FIELDS["mode"].choices),
    temperature=st.floats(0, 2),
    tokens=st.integers(1, MOST_TOKENS),
    seed=st.none() | st.integers(0, 2**53),
    rate=st.floats(0, 1000),
    fresh=st.booleans(),
    decouple=st.booleans(),
    repetition_penalty=st.just(1.0) | st.floats(0.1, 10),
    presence_penalty=st.just(0.0) | st.floats(-2, 2),
    frequency_penalty=st.just(0.0) | st.floats(-2, 2),
    dry_multiplier=st.just(0.0) | st.floats(0, 100),
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(NAMES), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    [*NAMES, *PageState().json(), *"vpftn", "r.humor", "aim.toxicity", "s.p", "s.humor", "rate", "__theme"]
)


@given(states)
def test_a_link_brings_back_the_very_state(state: PageState) -> None:
    assert read_query(write_query(state), NAMES, HEADS) == (state, [])


@given(states)
def test_what_the_browser_keeps_brings_back_the_very_state(state: PageState) -> None:
    assert read_state(state.json(), NAMES, HEADS) == state


@given(states, st.lists(st.tuples(keys, st.text(max_size=20) | st.floats().map(str))))
def test_whatever_a_link_says_is_read_or_left_out_in_words(state: PageState, parts: list[tuple[str, str]]) -> None:
    from urllib.parse import urlencode

    answer = read_query(urlencode([("v", "1"), *parts], errors="replace"), NAMES, HEADS)
    assert answer is not None
    found, notes = answer
    assert len(notes) <= len(parts) and all(len(note) < 500 for note in notes)
    assert read_state(found.json(), NAMES, HEADS) == found  # the page itself could have sent it


@given(st.text(max_size=200))
def test_any_text_is_a_query(query: str) -> None:
    answer = read_query(query, NAMES, HEADS)
    assert answer is None or isinstance(answer[0], PageState)


@given(json | st.fixed_dictionaries({}, optional=dict.fromkeys(PageState().json(), json)))
def test_any_json_is_a_state_or_is_refused_in_words(posted: Any) -> None:
    try:
        state = read_state(posted, NAMES, HEADS)
    except MixerError as error:
        assert 0 < len(str(error)) < 500
    else:
        assert read_query(write_query(state), NAMES, HEADS) == (state, [])


def test_a_link_can_be_read_by_a_person() -> None:
    steering = Steering({"sentiment": 0.8}, {"toxicity": 0.1}, budget=None, whole=True)
    state = PageState(
        "Dear neighbour,", "base + formal", {"formality": 0.6}, steering, seed=3, temperature=1.0, fresh=True
    )
    assert write_query(state) == (
        "v=1&p=Dear+neighbour%2C&formality=0.6&r.sentiment=0.8&aim.toxicity=0.1&budget=none&whole=1"
        "&f=base+%2B+formal&t=1&seed=3&fresh=1"
    )
    assert write_query(PageState("Hi")) == "v=1&p=Hi"
    assert write_query(PageState("Hi", repetition_penalty=1.1, dry_multiplier=0.8)) == "v=1&p=Hi&rp=1.1&dry=0.8"
    assert read_query("v=1&p=Hi&seed=-1", NAMES, HEADS) == (PageState("Hi", seed=None), [])
    assert "s.seed=1" in write_query(PageState(positions={"seed": 1.0}))


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("humor=9", "humor=9 was left out of the link: The position of humor is 9, which is out of range."),
        ("humour=0.5", "no attribute called 'humour'. Did you mean humor"),
        ("humor=much", "That is no number"),
        ("humor=nan", "position of humor is nan"),
        ("r.humour=1", "no reward called 'humour'"),
        ("r.humor=7", "reward humor is 7"),
        ("aim.humor=2", "level of humor is 2"),
        ("budget=-1", "budget is -1"),
        ("whole=maybe", "neither 1 nor 0"),
        ("mode=drift", "There is no such mode. Choose one of keep, refill, restart."),
        ("t=9", "temperature is 9"),
        ("n=0", "number of tokens is 0"),
        ("n=1.5", "not a whole number"),
        ("seed=-2", "seed is -2"),
        ("rate=1e9", "speed is 1"),
        ("f=" + "x" * 5000, "5,000 characters"),
        ("p=" + "x" * 50_000, "50,000 characters"),
        ("v=7", "another version"),
    ],
)
def test_what_is_wrong_is_left_out_by_itself(part: str, sentence: str) -> None:
    query = "?formality=0.5&" + part + ("" if part.startswith("v") else "&v=1")
    answer = read_query(query, ("formality", "humor"), ("humor", "toxicity"))
    assert answer is not None
    assert answer[0] == PageState(positions={"formality": 0.5})
    (note,) = answer[1]
    assert sentence in note


def test_a_reward_is_pushed_or_aimed_but_not_both() -> None:
    answer = read_query("v=1&r.humor=1&aim.humor=0.5", (), ("humor",))
    assert answer is not None
    assert answer[0].steering == Steering({"humor": 1.0})
    assert "both a position and a level" in answer[1][0]


@pytest.mark.parametrize("query", ["", "?", "?__theme=dark", "p=Hello", "?%", "&&&="])
def test_a_query_without_a_version_holds_no_state(query: str) -> None:
    assert read_query(query, NAMES, HEADS) is None


def test_the_servers_own_parts_are_passed_over_and_too_many_parts_are_not_read() -> None:
    assert read_query("__theme=dark&v=1&p=x", (), ()) == (PageState("x"), [])
    answer = read_query("v=1" + "&p=x" * MOST_PARTS, (), ())
    assert answer is not None
    assert answer[0] == PageState() and "more than" in answer[1][0]


def test_all_at_rest_steers_nothing_and_a_budget_alone_counts() -> None:
    assert PageState().steers is REST
    tight = replace(PageState(), steering=Steering(budget=0.5))
    assert tight.steers == Steering(budget=0.5)
    assert not math.isnan(tight.temperature)
