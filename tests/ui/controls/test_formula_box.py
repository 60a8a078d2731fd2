from __future__ import annotations

from dataclasses import replace

import pytest

from mixer import Desk
from mixer.formula.tree import FUNCTIONS
from mixer.ui.controls.formula_box import answer, names


def test_every_name_that_a_click_puts_in_is_one_of_the_language(desk: Desk) -> None:
    found = names(desk.vocabulary)
    for name in found:
        if name["kind"] != "function":
            assert "error" not in answer(desk, f"sliders + {name['text']}")
        else:
            assert name["text"] in FUNCTIONS
            assert name["title"]
    labels = {label for attribute in desk.attributes.values() for label in attribute.labels}
    assert {name["text"] for name in found} >= {"sliders", "base", "union", "ban", "reward", *labels}
    without = names(replace(desk.vocabulary, rewards=()))
    assert "reward" not in {name["text"] for name in without}


def test_the_answer_has_s_and_every_exponent(desk: Desk) -> None:
    found = answer(desk, "base - 0.96*union(base, [rude])")
    assert (found["weight"], found["tie"]) == ("S = 0.04", "none")
    assert [(one["text"], one["exponent"]) for one in found["summands"]] == [
        ("base", "25"),
        ("union(base, rude)", "−24"),
    ]
    assert len(found["warnings"]) == 1
    assert answer(desk, "strength(polite)*formal + 2*base")["weight"] == "S depends on the text"


def test_a_weight_mix_moves_the_sliders_and_they_rewrite_it(desk: Desk) -> None:
    found = answer(desk, "[0.7*formal + 0.3*rude]")
    assert (found["tie"], found["positions"]) == ("mix", {"formality": 0.7, "politeness": -0.3})
    moved = answer(desk, "[0.7*formal + 0.3*rude]", {"formality": 0.7, "politeness": 0.2})
    assert moved["text"] == "[0.7*formal + 0.20*polite]"
    assert moved["positions"] == {"formality": 0.7, "politeness": 0.2}


@pytest.mark.parametrize(
    ("text", "place", "where"),
    [
        ("base + 2*plite", "plite", "Line 1, column 10"),
        ("sliders\n  + fromal", "fromal", "Line 2, column 5"),
        ("[0.5*polite", "[", "Line 1, column 1"),
        ("", "", "Line 1, column 1"),
        ("sliders + 😀", "😀", "Line 1, column 11"),
    ],
)
def test_an_error_has_its_line_in_three_pieces(desk: Desk, text: str, place: str, where: str) -> None:
    error = answer(desk, text)["error"]
    assert (error["place"], error["where"]) == (place, where)
    assert error["before"] + error["place"] + error["after"] in text.split("\n")
    assert error["message"]
    assert error["hint"]


def test_a_formula_of_any_length_is_answered(desk: Desk) -> None:
    assert "4,000" in answer(desk, "sliders + " * 100_000)["error"]["message"]
