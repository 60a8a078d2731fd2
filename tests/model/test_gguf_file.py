"""Our reader of GGUF files against the package's own, and what it says of files that are not whole."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.model.gguf_file import read_gguf

KINDS = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
# The package leaves out empty texts.
VALUES = st.one_of(
    st.text(min_size=1, max_size=20), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4), st.booleans()
)


def write(path: Path, metadata: dict, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add = {str: writer.add_string, bool: writer.add_bool, list: writer.add_array}[type(value)]
        add(key, value)
    for name, (kind, numbers) in tensors.items():
        known = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(numbers, known), raw_dtype=known)
    for part in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        part()
    writer.close()


@settings(max_examples=25, deadline=None)
@given(
    metadata=st.dictionaries(st.from_regex(r"mixer\.[a-z]{1,12}", fullmatch=True), VALUES, max_size=5),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, metadata: dict, kinds: list, seed: int):
    path, rng = tmp_path_factory.mktemp("gguf") / "one.gguf", np.random.default_rng(seed)
    shapes = [(int(rng.integers(1, 5)), 32 * int(rng.integers(1, 4))) for _ in kinds]
    written = {
        f"t{i}": (kind, rng.standard_normal(shape).astype(np.float32))
        for i, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))
    }
    write(path, metadata, written)
    found, tensors = read_gguf(path)
    assert {key: found[key] for key in metadata} == metadata and found["general.architecture"] == "llama"
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert tensors.keys() == theirs.keys() == written.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == written[name][1].shape and tensor.kind == written[name][0]
        expected = gguf.quants.dequantize(theirs[name].data, theirs[name].tensor_type)
        assert np.array_equal(tensor.numbers(), expected)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_an_error_and_no_crash(tmp_path: Path, share: float):
    path = tmp_path / "one.gguf"
    write(path, {"mixer.words": ["a", "b"]}, {"t": ("Q4_1", np.ones((8, 64), np.float32))})
    path.write_bytes(path.read_bytes()[: max(4, int(share * path.stat().st_size))])
    with pytest.raises((ValueError, struct.error)):
        read_gguf(path)


def test_a_length_beyond_the_file_is_refused_before_memory_is_asked_for(tmp_path: Path):
    path = tmp_path / "one.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60))
    with pytest.raises(ValueError, match="longer than the file"):
        read_gguf(path)
