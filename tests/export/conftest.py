"""Desks to export from."""

from __future__ import annotations

import pytest

from mixer import Desk
from tests.export.parts import KINDS, uneven


@pytest.fixture(scope="module", params=[*KINDS, "shipped"])
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    if request.param == "shipped":
        return Desk.load(device="cpu")
    root = uneven(tmp_path_factory.mktemp(request.param), request.param)
    return Desk.load(root / "base", root / "anchors", device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    root = uneven(tmp_path_factory.mktemp("uneven"), "llama")
    return Desk.load(root / "base", root / "anchors", device="cpu")
