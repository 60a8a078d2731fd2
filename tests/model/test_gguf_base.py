"""A GGUF file as a base: what it gives, what is kept, and what is said where it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixer import Desk
from mixer.errors import BadArtifact
from mixer.export.gguf import export_gguf_base
from mixer.model.gguf_base import cache_folder, gguf_folder
from mixer.resources import TINY_ANCHORS

PROMPT = "The door was open, and"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export_gguf_base(Desk.load("tiny"), path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MIXER_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def test_a_gguf_file_gives_the_model_that_it_was_made_from(file: Path, cache: Path):
    desk, tiny = Desk.load(file), Desk.load("tiny")
    assert torch.allclose(desk.logprobs(PROMPT), tiny.logprobs(PROMPT), atol=2e-2)
    assert desk.model.encode(PROMPT) == tiny.model.encode(PROMPT) and desk.name == "tiny"
    # It is the same model in another precision at most, so the shipped anchors are found for it.
    assert set(desk.attributes) == set(tiny.attributes) and not desk.problems


def test_it_is_converted_once(file: Path, cache: Path, capsys: pytest.CaptureFixture[str]):
    folder = gguf_folder(file)
    assert folder.is_relative_to(cache) and "first use" in capsys.readouterr().err
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert gguf_folder(file) == folder and (folder / "model.safetensors").stat().st_mtime_ns == made
    assert capsys.readouterr().err == ""
    os.utime(file)  # a new file under the old name is converted anew
    assert gguf_folder(file) != folder


def test_two_programs_that_start_at_once_do_not_disturb_each_other(file: Path, cache: Path):
    imports = "import sys; from pathlib import Path; from mixer.model.gguf_base import gguf_folder"
    code = f"{imports}; print(gguf_folder(Path(sys.argv[1])))"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = {process.communicate(timeout=300)[0].strip() for process in started}
    assert len(told) == 1 and all(process.returncode == 0 for process in started)
    left = [path.name for path in (cache / "bases").iterdir()]
    assert left == [Path(told.pop()).name], "nothing unfinished is left"


def test_where_the_cache_cannot_be_written_it_works_all_the_same(
    file: Path, cache: Path, capsys: pytest.CaptureFixture[str]
):
    cache.write_text("a file where the folder should be")
    folder = gguf_folder(file)
    assert (folder / "model.safetensors").is_file() and not folder.is_relative_to(cache)
    assert "not kept" in capsys.readouterr().err
    shutil.rmtree(folder.parent)


def test_without_a_home_there_is_a_folder_too(monkeypatch: pytest.MonkeyPatch):
    for name in ("MIXER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().name == "mixing-desk"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no base model"), (b"", "no GGUF file"), (b"GGUF" + bytes(60), "cannot be read")]
)
def test_what_is_no_model_is_refused_with_a_sentence(tmp_path: Path, cache: Path, content: bytes | None, message: str):
    path = tmp_path / "bad.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadArtifact, match=message) as caught:
        Desk.load(path)
    assert caught.value.hint


@pytest.mark.parametrize("share", [0.001, 0.3, 0.95])
def test_a_file_that_is_cut_off_is_refused_as_a_file(
    file: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], share: float
):
    path = tmp_path / "short.gguf"
    path.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])
    with pytest.raises(BadArtifact, match="cannot be read"):
        gguf_folder(path)
    assert "not kept" not in capsys.readouterr().err and not [*(cache / "bases").iterdir()]


def test_adapters_that_name_the_base_fit_what_was_made_of_its_file(file: Path, tmp_path: Path, cache: Path):
    """An adapter without a fingerprint is known by the name of its base, which is the file's and not the cache's."""
    home = tmp_path / "anchors" / "formality" / "positive"
    shutil.copytree(TINY_ANCHORS / "formality" / "positive", home)
    tensors = load_file(home / "adapter_model.safetensors")
    save_file(tensors, home / "adapter_model.safetensors", {"format": "pt"})
    record = json.loads((home / "adapter_config.json").read_text()) | {"base_model_name_or_path": "someone/tiny"}
    (home / "adapter_config.json").write_text(json.dumps(record))
    assert list(Desk.load(file, tmp_path / "anchors").attributes) == ["formality"]


def test_it_is_what_transformers_makes_of_the_file(file: Path, cache: Path):
    """The shipped model is of the kind that is read without `transformers`."""
    folder = gguf_folder(file)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours = load_file(folder / "model.safetensors")
    expected = {name: tensor for name, tensor in theirs.state_dict().items() if name in ours}
    assert ours.keys() == {*theirs.state_dict()} - {"lm_head.weight"}
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in (PROMPT, "Änderung  12\n\n\t<|endoftext|> שלום"):
        assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_conversion_that_was_cut_off_later_is_made_again(file: Path, cache: Path):
    folder = gguf_folder(file)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert gguf_folder(file) == folder and weights.read_bytes() == whole
