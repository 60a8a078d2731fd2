"""Sampling parameters: equal options are equal, records read back, and what is wrong is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer import SamplingParams
from mixer.errors import InvalidValue
from mixer.values.request import FIELDS, SAMPLING, read_sampling
from mixer.values.sampling import BOUNDS

keys = st.integers(0, 10**6) | st.text(min_size=1, max_size=9)
texts = st.lists(st.text(min_size=1, max_size=9), max_size=4)
params = st.builds(
    SamplingParams,
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 100),
    stop=texts,
    seed=st.none() | st.integers(-1, 2**63 - 1),
    logit_bias=st.lists(st.tuples(keys, st.floats(-100, 100)), max_size=4, unique_by=lambda one: str(one[0])).filter(
        lambda pairs: not any(str(key) != "0" and str(key).startswith("0") for key, _ in pairs)
    ),
    repetition_penalty=st.floats(0.1, 10),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    dry_multiplier=st.floats(0, 100),
    dry_base=st.floats(1, 10),
    dry_allowed_length=st.integers(1, 1000),
    dry_sequence_breakers=texts,
)


@given(params)
def test_a_record_reads_back_through_json(one: SamplingParams):
    record = json.loads(json.dumps(one.record()))
    assert SamplingParams(**record) == one == read_sampling(record)
    assert hash(SamplingParams(**record)) == hash(one)


def test_the_default_has_an_empty_record_and_seed_minus_one_is_none():
    assert SamplingParams().record() == {} and read_sampling({}) == SamplingParams()
    assert SamplingParams(seed=-1) == SamplingParams(seed=None)


def test_biases_are_kept_sorted_and_digits_are_token_ids():
    one = SamplingParams(logit_bias={"b": 1, "262": 2, 7: -100, "a": 3})
    assert one.biases == ((7, -100.0), (262, 2.0), ("a", 3.0), ("b", 1.0))
    assert one == SamplingParams(logit_bias=[("a", 3), ("b", 1), (262, 2), ("7", -100)])


def test_every_option_is_a_field_of_the_table_with_the_same_bounds():
    assert {FIELDS[name].argument for name in SAMPLING} == set(SamplingParams.__dataclass_fields__)
    for name in SAMPLING:
        if FIELDS[name].argument in BOUNDS:
            assert FIELDS[name].bounds() == BOUNDS[FIELDS[name].argument]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 0}, "repetition_penalty is 0, which is out of range"),
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan"),
        ({"dry_base": "x"}, "dry_base must be a number"),
        ({"dry_allowed_length": 2.5}, "dry_allowed_length must be a whole number"),
        ({"dry_sequence_breakers": [""]}, "A text of dry_sequence_breakers is empty"),
        ({"stop": 3}, "stop must be texts"),
        ({"stop": ["x"] * 101}, "stop has 101 texts"),
        ({"seed": -2}, "seed is -2"),
        ({"logit_bias": {"a": 101}}, "The bias of 'a' is 101"),
        ({"logit_bias": {"7": 1, 7: 2}}, "logit_bias has 7 twice"),
        ({"logit_bias": {"": 1}}, "no word and no token id"),
        ({"logit_bias": {-1: 1}}, "'-1', which is no word and no token id"),
        ({"logit_bias": {True: 1}}, "'True', which is no word"),
        ({"logit_bias": ["a"]}, "logit_bias has the entry 'a'"),
        ({"logit_bias": "a=1"}, "logit_bias must be words with numbers"),
        ({"logit_bias": dict.fromkeys(range(1001), 1)}, "logit_bias has 1,001 entries"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(options: dict[str, Any], message: str):
    with pytest.raises(InvalidValue, match=message) as found:
        SamplingParams(**options)
    assert found.value.hint
