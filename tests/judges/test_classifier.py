"""Classifiers as judges: scores are those of transformers for each text alone, for any batch and any truncation."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLNetConfig,
)

from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported
from mixer.judges.classifier import load_classifier
from tests.factory import make_base

CLS, PAD, SEP, VOCAB = 0, 1, 2, 259
POSITIONS = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": PAD,
    "bos_token_id": CLS,
    "eos_token_id": SEP,
}
KINDS = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "llama": LlamaConfig,
    "gpt2": lambda **shape: GPT2Config(**shape, n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS),
}
ENCODERS = ("bert", "roberta")
SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False)
LETTERS = {letter: 3 + i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
RESERVED = {"roberta": PAD + 1}


def make_classifier(folder: Path, kind: str = "bert", limit: int | None = None, **options) -> Path:
    """A random classifier and a byte tokenizer, which ends a text with `</s>` only for encoders."""
    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPE.items() if kind != "gpt2" or key.endswith(("_id", "vocab_size"))}
    config = KINDS[kind](**shape | options) if kind in KINDS else options.pop("config")
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():  # large logits, so that differences between texts are visible
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(12)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE({"<s>": CLS, "<pad>": PAD, "</s>": SEP} | LETTERS, []))
    tokenizer.pre_tokenizer = SPLIT
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if kind in ENCODERS else "<s> $A", special_tokens=[("<s>", CLS), ("</s>", SEP)]
    )
    names: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}
    if options.get("pad_token_id", PAD) is not None:
        names["pad_token"] = "<pad>"
    if limit is not None:
        names["model_max_length"] = limit
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("classifiers")
    return {kind: make_classifier(root / kind, kind) for kind in KINDS}


def plain(folder: Path, kind: str, texts: list[str]) -> np.ndarray:
    """Logits of one text at a time, `(N, labels)`, each truncated on the left to the classifier's context."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    close = [SEP] if kind in ENCODERS else []
    room = POSITIONS - RESERVED.get(kind, 0) - 1 - len(close)
    rows = []
    for text in texts:
        body = [LETTERS[letter] for part, _ in SPLIT.pre_tokenize_str(text) for letter in part]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([[CLS, *body[-room:], *close]])).logits[0].double())
    return torch.stack(rows).numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_as_transformers_scores_it_alone(folders: dict[str, Path], kind: str):
    text, endings = "The rain went", ["", " on", " on and on", ".", "!\n\nAnd then", " é日", " on" * 30, "</s> <pad>"]
    scores = load_classifier(folders[kind]).scores_after(text, endings)
    assert scores.dtype == np.float64 and np.ptp(scores) > 0.01
    expected = softmax(plain(folders[kind], kind, [text + ending for ending in endings]))[:, 1]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_the_texts_beside_it(folders: dict[str, Path], kind: str):
    classifier = load_classifier(folders[kind])

    @settings(max_examples=15)
    @given(text=st.text(max_size=60), endings=st.lists(st.text(max_size=20), min_size=1, max_size=5))
    def holds(text: str, endings: list[str]) -> None:
        alone = [classifier.scores_after(text, [ending])[0] for ending in endings]
        np.testing.assert_allclose(classifier.scores_after(text, endings), alone, atol=1e-5)

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_long_text_the_newest_words_count(folders: dict[str, Path], kind: str):
    classifier = load_classifier(folders[kind])
    assert classifier.context == POSITIONS - RESERVED.get(kind, 0)
    long = "An old beginning. " * 50
    first, other, changed = classifier.scores_after(long, ["x" * 50, "y" * 50, "x" * 49 + "z"])
    assert classifier.scores_after("Another beginning. ", ["x" * 50])[0] == pytest.approx(first, abs=1e-6)
    assert abs(first - other) > 1e-4 and abs(first - changed) > 1e-4


def test_the_shorter_limit_of_tokenizer_and_model_holds(tmp_path: Path):
    classifier = load_classifier(make_classifier(tmp_path, limit=12))
    assert classifier.context == 12
    assert np.ptp(classifier.scores_after("", ["a" + "b" * 10, "b" * 10])) < 1e-6
    assert np.ptp(classifier.scores_after("", ["a" + "b" * 9, "b" * 10])) > 1e-6


def test_one_output_is_a_probability_by_itself(tmp_path: Path):
    folder = make_classifier(tmp_path, num_labels=1)
    logit = plain(folder, "bert", ["Some text"])[0, 0]
    assert load_classifier(folder).scores_after("Some", [" text"])[0] == pytest.approx(
        1 / (1 + np.exp(-logit)), abs=1e-5
    )


def test_labels_that_do_not_exclude_each_other_are_scored_apart(tmp_path: Path):
    folder = make_classifier(tmp_path, num_labels=3, problem_type="multi_label_classification")
    logits = plain(folder, "bert", ["Some text"])[0]
    found = [load_classifier(folder, i).scores_after("Some", [" text"])[0] for i in range(3)]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_several_labels_share_one(tmp_path: Path):
    folder = make_classifier(tmp_path, id2label={0: "Calm", 1: "Glad", 2: "Angry"})
    found = [load_classifier(folder, label).scores_after("Some", [" text"])[0] for label in ("calm", 1, "Angry")]
    assert sum(found) == pytest.approx(1)
    np.testing.assert_allclose(found, softmax(plain(folder, "bert", ["Some text"]))[0], atol=1e-5)
    with pytest.raises(InvalidValue, match=r"3 labels.*Calm, Glad, Angry"):
        load_classifier(folder)
    with pytest.raises(UnknownName, match="Angry"):
        load_classifier(folder, "angri")
    with pytest.raises(UnknownName, match=r"2 \(Angry\)"):
        load_classifier(folder, 3)


def test_of_two_labels_the_last_is_meant(folders: dict[str, Path]):
    first, last, meant = (
        load_classifier(folders["bert"], label).scores_after("Some text", [""])[0] for label in ("LABEL_0", 1, None)
    )
    assert meant == last == pytest.approx(1 - first)


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_a_mark_says_nothing(folders: dict[str, Path], kind: str):
    classifier = load_classifier(folders[kind])
    assert classifier.scores_after("", ["", " \n"]).tolist() == [0.5, 0.5]
    assert classifier.scores_after("", []).shape == (0,)
    scores = classifier.scores_after(" ", ["", "word"])
    assert scores[0] == 0.5 and scores[1] == pytest.approx(classifier.scores_after("", [" word"])[0], abs=1e-6)


def test_what_is_remembered_cannot_be_changed_from_outside(folders: dict[str, Path]):
    classifier = load_classifier(folders["bert"])
    first = classifier.scores_after("Some", [" text", " words"])
    kept = first.copy()
    first[:] = 7
    assert classifier.scores_after("Some text", ["", "s"])[0] == pytest.approx(kept[0])
    assert (classifier.scores_after("Some", [" text", " words"]) == kept).all()


def test_threads_may_ask_at_once(folders: dict[str, Path]):
    classifier = load_classifier(folders["roberta"])
    expected = {n: classifier.scores_after(f"Text {n}", ["", "a" * n]) for n in range(8)}
    wrong = []

    def ask(n: int) -> None:
        for _ in range(10):
            if not np.allclose(classifier.scores_after(f"Text {n}", ["", "a" * n]), expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_padding_token_of_the_tokenizer_alone_is_enough(tmp_path: Path, folders: dict[str, Path]):
    folder = make_classifier(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    texts = ["Some text", "Some longer text"]
    own, shared = (load_classifier(path).scores_after("", texts) for path in (folder, folders["llama"]))
    np.testing.assert_allclose(own, shared)


def test_without_a_padding_token_it_is_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match="no padding token"):
        load_classifier(make_classifier(tmp_path, "llama", pad_token_id=None))


def test_an_architecture_that_reads_its_padding_is_refused(tmp_path: Path):
    config = XLNetConfig(vocab_size=VOCAB, d_model=16, n_layer=1, n_head=2, d_inner=16, pad_token_id=PAD)
    with pytest.raises(Unsupported, match="texts beside it"):
        load_classifier(make_classifier(tmp_path, "xlnet", config=config))


def test_a_language_model_is_no_classifier(tmp_path: Path):
    with pytest.raises(BadArtifact, match=r"score\.weight is missing"):
        load_classifier(make_base(tmp_path))


def ask_for_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('code was run')\n")


def pickle_weights(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


DAMAGE = {
    "no weights": (BadArtifact, lambda folder: (folder / "model.safetensors").unlink()),
    "pickled weights": (BadArtifact, pickle_weights),
    "no tensors": (BadArtifact, lambda folder: (folder / "model.safetensors").write_bytes(b"not a file of tensors")),
    "no configuration": (BadArtifact, lambda folder: (folder / "config.json").unlink()),
    "code of its own": (Unsupported, ask_for_code),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_named(tmp_path: Path, damage: str):
    folder = make_classifier(tmp_path / "damaged")
    kind, harm = DAMAGE[damage]
    harm(folder)
    with pytest.raises(kind, match="damaged") as error:
        load_classifier(folder)
    assert error.value.hint


@pytest.mark.parametrize("source", ["./none", "/none/at/all", Path("none"), "nobody/nothing"])
def test_what_is_not_there_is_named(source: str | Path):
    with pytest.raises(BadArtifact, match=str(source)) as error:
        load_classifier(source)
    assert error.value.hint


def test_a_device_that_is_not_there_is_refused(folders: dict[str, Path]):
    with pytest.raises(InvalidValue, match="mainframe"):
        load_classifier(folders["bert"], device="mainframe")
