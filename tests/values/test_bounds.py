"""Lists in JSON; what is none is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.errors import InvalidValue
from mixer.values.bounds import json_list


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())))
def test_a_list_reads_back(found: list[Any]) -> None:
    assert json_list(json.dumps(found), "") == found


@pytest.mark.parametrize("text", ["", "{}", "5", '"x"', "[", "[x]", "[" * 100_000, "null", "9" * 5000])
def test_what_is_no_list_is_refused_with_the_hint(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"is no JSON list\. Write a list\."):
        json_list(text, "Write a list.")
