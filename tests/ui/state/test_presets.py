from __future__ import annotations

from pathlib import Path

import pytest

from mixer import Desk
from mixer.files.presets import load_presets
from mixer.ui.controls.formula_box import answer
from mixer.ui.page import OPENING
from mixer.ui.state import presets as ui
from mixer.ui.state.link import read_query, write_query
from mixer.ui.state.page_state import PageState


def test_every_preset_is_a_state_of_the_shipped_desk_and_the_page_opens_with_one(desk: Desk) -> None:
    found = ui.presets(desk)
    assert [choice.name for choice in found] == [preset.name for preset in load_presets()]
    assert OPENING in {choice.name for choice in found if choice.state.positions}
    for choice in found:
        assert "error" not in answer(desk, choice.state.formula)
        assert read_query(write_query(choice.state), desk.attributes, desk.rewards) == (choice.state, [])


def test_presets_that_the_desk_cannot_run_are_left_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(
        "- {name: One, formula: sliders + nobody, about: x, credit: x}\n"
        "- {name: Two, formula: 2*sliders - base, about: x, credit: x, settings: {humor: 3, charm: 1}}\n"
    )
    monkeypatch.setattr(ui, "load_presets", lambda: load_presets(path))
    (two,) = ui.presets(desk)
    assert two.state == PageState(formula="2*sliders - base", positions={"humor": 1.5})
    path.write_text("nothing")
    assert ui.presets(desk) == []
