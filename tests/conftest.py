"""Shared fixtures: nothing reaches a hub, and small models are made once a run."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The desk's own default is SmolLM2 where it is installed; most laws are shown on the 12M model, which is there always.
os.environ.setdefault("MIXER_BASE", "tiny")

from pathlib import Path

import pytest
from hypothesis import settings

from tests.factory import make_desk_folders

settings.register_profile("patient", deadline=None)  # a busy machine is no error
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: playwright keeps an event loop running in this thread, which no other test expects."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` (a random Llama) and `anchors` (formality and humor, two poles each)."""
    return make_desk_folders(tmp_path_factory.mktemp("tiny"))
