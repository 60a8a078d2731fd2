"""The folder of an export: what must not be overwritten, and files that appear only when all of them are complete."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mixer.desk import Desk
from mixer.errors import BadArtifact, InvalidValue


def refuse_folder(desk: Desk, folder: Path, overwrite: bool, foreign: str) -> None:
    """Refuse a folder that must not be written to, before anything is computed.

    Args:
        foreign: a file that only the other kind of export has. Adapter and merged model in one folder would load as
            something else.

    Raises:
        InvalidValue: it is a file, holds the base, an anchor or the other kind of export, or is not empty.
        BadArtifact: it cannot be read.
    """
    homes = [str(desk.base_model.name_or_path), *(adapter.anchor.path for adapter in desk.anchor_set.adapters)]
    if "\0" in str(folder):
        raise InvalidValue(f"{str(folder)!r} is no name of a folder.", "Give another folder.")
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise InvalidValue(f"{folder} is a file.", "Give a folder.")
        if there and any(Path(home).exists() and folder.samefile(home) for home in homes):
            raise InvalidValue(f"{folder} holds the base or an anchor of this desk.", "Give another folder.")
        if (folder / foreign).exists():
            raise InvalidValue(f"{folder} holds an export of another kind ({foreign}).", "Give another folder.")
        if there and not overwrite and any(folder.iterdir()):
            raise InvalidValue(f"The folder {folder} is not empty.", "Give another one, or overwrite it.")
    except OSError as error:
        raise BadArtifact(f"{folder} cannot be used: {error}.", "Give another folder.") from error


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """A temporary folder to write to; its files are moved to `folder` at the end, if no error is raised.

    Raises:
        BadArtifact: the folder cannot be written.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as work:
            yield Path(work)
            folder.mkdir(exist_ok=True)
            for file in sorted(Path(work).iterdir()):
                file.replace(folder / file.name)
    except (OSError, SafetensorError) as error:
        raise BadArtifact(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}.", "Give another folder."
        ) from error
