"""Decoupled sliders on the server: asked levels become positions in one place, and all ways of asking agree."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mixer import Desk, SamplingParams
from mixer.errors import Unsupported
from mixer.ui.api import generate
from mixer.ui.controls.tools import tell, visit
from mixer.ui.live.browsers import BrowserSession
from mixer.ui.live.stream import run
from mixer.ui.panels.export import ExportRequest, write
from mixer.ui.state import snippets
from mixer.ui.state.controls import DeckValue, read_value
from mixer.ui.state.decouple import mix_of, positions_of, scales, without_decouple
from mixer.ui.state.page_state import PageState
from mixer.ui.state.request import request

ASKED = {"formality": 0.6, "sentiment": -0.4}
STATE = PageState("The door was", positions=ASKED, tokens=12, seed=3, decouple=True)


@pytest.fixture(scope="module")
def plain(desk: Desk) -> Desk:
    """A stand-in for a desk whose anchors were not measured: it has nothing else that is looked at."""
    return cast(Desk, SimpleNamespace(anchor_set=replace(desk.anchor_set, calibration=None), mix=desk.mix))


def test_decoupled_sliders_are_asked_levels(desk: Desk) -> None:
    calibration = desk.anchor_set.calibration
    assert calibration is not None
    asked = DeckValue(1, ASKED, decouple=True)
    assert positions_of(desk, asked) == calibration.positions(ASKED) != ASKED
    assert mix_of(desk, asked) == desk.mix(calibration.positions(ASKED))
    assert mix_of(desk, replace(asked, decouple=False)) == desk.mix(ASKED)
    assert not positions_of(desk, DeckValue(1, decouple=True))


def test_the_deck_says_so_and_only_plainly(desk: Desk) -> None:
    posted = {"seq": 2, "positions": ASKED, "decouple": True}
    assert read_value(posted, desk.attributes) == DeckValue(2, ASKED, decouple=True)


def test_every_way_of_asking_writes_the_same_text(desk: Desk) -> None:
    asked, _ = request(desk, STATE)
    text = desk.generate_batch([asked])[0].text
    value = DeckValue(1, ASKED, decouple=True)
    *_, last = run(desk, BrowserSession(), STATE.prompt, value, "keep", asked.params)
    assert "".join(part for _, part in last.mix) == text
    assert last.mix[-1][0] == "formality +0.60 · sentiment −0.40 · decoupled"
    endpoint: Callable[..., str] = generate(desk)
    assert endpoint(STATE.prompt, ASKED, 12, 0.8, 3, min_new_tokens=6, decouple=True) == text
    assert endpoint(**snippets.request(without_decouple(desk, STATE))) == text
    assert desk.generate(STATE.prompt, desk.mix(ASKED), asked.params).text != text


def test_code_has_the_positions_and_the_link_what_was_asked(desk: Desk) -> None:
    told = tell(desk)(STATE.json())
    assert "formality=0.6&sentiment=-0.4&decouple=1" in told["Link"]
    for name in ("Python", "Command line", "curl"):
        assert all(repr(x) in told[name] for x in positions_of(desk, STATE).values()), name
    assert visit(desk)(told["Link"].partition("?")[2]) == {"state": STATE.json(), "notes": []}


def test_a_weight_mix_names_positions_and_is_never_decoupled(desk: Desk) -> None:
    asked, _ = request(desk, replace(STATE, formula="[0.5*formality]"))
    assert asked.mix == desk.mix(formality=0.5)
    under, found = request(desk, replace(STATE, formula="2*sliders - base"))
    assert found.tie == "sliders" and under.mix == mix_of(desk, STATE)


def test_a_move_in_mid_text_is_decoupled_too(desk: Desk) -> None:
    browser, params = BrowserSession(), SamplingParams(max_new_tokens=30, seed=1, min_new_tokens=30)
    frames = run(desk, browser, "The door was", DeckValue(1), "keep", params)
    next(frames)
    value = DeckValue(2, ASKED, decouple=True)
    browser.steer(value, mix_of(desk, value))
    *_, last = frames
    assert last.mix[-1][0].endswith("decoupled")
    parts: list[dict[str, Any]] = (last.written or {})["parts"]
    assert parts[-1]["positions"] == pytest.approx(positions_of(desk, value))


def test_an_exported_mix_is_the_decoupled_one(desk: Desk, tmp_path: Any) -> None:
    from mixer import load_mix

    path, _ = write(desk, ExportRequest(STATE, "mix", None, "float32"), tmp_path)
    assert load_mix(path) == mix_of(desk, STATE)


def test_without_a_calibration_there_is_no_toggle_and_a_clear_refusal(plain: Desk, desk: Desk) -> None:
    assert scales(plain) is None
    assert mix_of(plain, DeckValue(1, ASKED)) == desk.mix(ASKED)
    with pytest.raises(Unsupported, match="evaluate coupling"):
        mix_of(plain, STATE)


def test_a_calibration_is_solved_from_any_thread(desk: Desk) -> None:
    value, found = DeckValue(1, {"humor": 0.3, "poetry": -0.2}, decouple=True), []
    threads = [threading.Thread(target=lambda: found.append(positions_of(desk, value))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(one == found[0] for one in found)
