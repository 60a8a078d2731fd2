"""Any sequence classifier of `transformers` as a judge: the score is the probability of one of its labels.

Candidates are read in one padded batch. A text longer than the classifier's context is truncated on the left, because
the newest words must count. Arithmetic is float32 for every dtype of weights: formulas take differences between
candidates, and bfloat16 would round them away. This module knows nothing of formulas.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mixer.errors import BadArtifact, InvalidValue, UnknownName, Unsupported
from mixer.model.base import pick_device

DEFAULT_CONTEXT = 512  # tokens, if neither model nor tokenizer has a limit
SEPARATE_LABELS = ("multi_label_classification", "regression")  # problem types with a sigmoid for each label
HINT = "Give a folder or hub id of a sequence classifier with safetensors and its tokenizer."


class Classifier:
    """A `mixer.judges.linear.Scorer`: the score is the probability of one label. A text of whitespace scores 0.5.

    Args:
        model: a sequence classifier with a padding token in its configuration.
        label: number of the label.

    Attributes:
        labels: names of all labels.
        context: most tokens that it reads, special tokens included.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, label: int) -> None:
        self.labels, self.label = _labels(model), label
        self.context = _context(model, tokenizer)
        self._model, self._tokenizer = model.eval(), tokenizer
        self._tokenizer.truncation_side = "left"
        # The padding token must be the model's: a decoder finds the last token by it, and RoBERTa the positions.
        self._pad = int(model.config.get_text_config().pad_token_id)
        self._lock = threading.Lock()  # a truncating tokenizer is not safe for several threads at once
        self._last: tuple[tuple[str, ...], np.ndarray] = (), np.empty(0)  # texts of the last call, and their scores

    def scores_after(self, text: str, endings: Sequence[str]) -> np.ndarray:
        """Scores of `text + ending` for each ending, `(N,)` float64 in [0, 1]."""
        texts = tuple(text + ending for ending in endings)
        with self._lock:
            if self._last[0] != texts:  # a formula may ask for both poles of the same texts
                self._last = texts, self._scores(texts)
            return self._last[1].copy()

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        scores = np.full(len(texts), 0.5)
        if rows := [row for row, text in enumerate(texts) if text.strip()]:
            logits = self._logits([texts[row] for row in rows]).double()
            separate = logits.shape[1] == 1 or self._model.config.problem_type in SEPARATE_LABELS
            scores[rows] = (logits.sigmoid() if separate else logits.softmax(1))[:, self.label].numpy()
        return scores

    def sees_padding(self) -> bool:
        """Whether the logits of a text depend on its padding, as in some architectures."""
        short, long = "Yes.", "Yes, and there are many more words in this one."
        return not torch.allclose(self._logits([long, short])[1], self._logits([short])[0], rtol=0, atol=1e-3)

    @torch.inference_mode()
    def _logits(self, texts: list[str]) -> torch.Tensor:
        """`(N, labels)` float32, in host memory."""
        # A text that contains the name of a special token, such as `</s>`, is read as plain letters.
        encoded = self._tokenizer(texts, truncation=True, max_length=self.context, split_special_tokens=True)
        rows = [torch.tensor(ids, dtype=torch.long) for ids in encoded["input_ids"]]
        ids = pad_sequence(rows, True, self._pad)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0)
        device = self._model.device
        return self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()


def load_classifier(source: str | Path, label: str | int | None = None, device: str = "cpu") -> Classifier:
    """Load a classifier from a folder or by hub id. Weights must be safetensors; code in the folder is never run.

    Args:
        label: name or number of the label to score. If None, a classifier of one or two labels is scored by its last.

    Raises:
        BadArtifact: the classifier is missing or incomplete, or it is no sequence classifier.
        Unsupported: it needs its own code or a package that is missing, it has no padding token, or its scores depend
            on padding.
        UnknownName: it has no such label.
        InvalidValue: it has more than two labels and `label` is None, or the device cannot be used.
    """
    place = pick_device(device)
    if (isinstance(source, Path) or source.startswith((".", "/", "~"))) and not Path(source).is_dir():
        raise BadArtifact(f"There is no classifier at {source}.", HINT)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except ImportError as error:
        raise Unsupported(
            f"The classifier {str(source)!r} needs a package: {_one_line(error)}.", "Install it."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(
                f"The classifier {str(source)!r} needs code of its own, which is not run.",
                "Choose one of an architecture that transformers knows.",
            ) from error
        raise BadArtifact(f"The classifier {str(source)!r} cannot be loaded: {_one_line(error)}", HINT) from error
    if missing := sorted(found["missing_keys"]):
        raise BadArtifact(
            f"{str(source)!r} holds no trained classifier: {missing[0]} is missing from its weights.",
            "It may be a language model or an encoder without a head; give one that was trained to classify.",
        )
    config = model.config.get_text_config()
    if config.pad_token_id is None or not 0 <= config.pad_token_id < config.vocab_size:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        raise Unsupported(
            f"The classifier {str(source)!r} has no padding token, so that it cannot read several texts at once.",
            "Set pad_token_id in its config.json to a token that no text holds.",
        )
    classifier = Classifier(model.to(place), tokenizer, _label_number(label, _labels(model), str(source)))
    if classifier.sees_padding():
        raise Unsupported(
            f"The scores of the classifier {str(source)!r} for one text depend on the texts beside it.",
            "Choose one of another architecture; BERT's and RoBERTa's relatives read every text by itself.",
        )
    return classifier


def _labels(model: Any) -> tuple[str, ...]:
    return tuple(name for _, name in sorted(model.config.id2label.items()))


def _label_number(label: str | int | None, labels: tuple[str, ...], source: str) -> int:
    if label is None:
        if len(labels) > 2:
            raise InvalidValue(f"{source!r} has {len(labels)} labels.", f"Name one of {', '.join(labels)[:300]}.")
        return len(labels) - 1
    if isinstance(label, int):
        if not 0 <= label < len(labels):
            raise UnknownName("label", str(label), [f"{i} ({name})" for i, name in enumerate(labels)])
        return label
    plain = [name.casefold() for name in labels]
    if label.casefold() not in plain:
        raise UnknownName("label", label, labels)
    return plain.index(label.casefold())


def _context(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens of a text. In RoBERTa and its relatives, the first position is the padding token's number plus 1."""
    reserved = 0
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            reserved = table.padding_idx + 1
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    limits = [tokenizer.model_max_length, positions - reserved]
    known = [limit for limit in limits if 0 < limit < 10**9]  # a tokenizer without a limit has 10**30
    return int(min(known, default=DEFAULT_CONTEXT))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
