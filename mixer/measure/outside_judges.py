"""Judges for measuring alone, which share nothing with anchors: other data, and another form of text.

Anchors learn from parallel pairs. These judges learn from unpaired texts of other origins (comments, encyclopedia,
quoted speech, novels), and see no pair. Three attributes show in plain signs that need no learning. Knows nothing of
sliders.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mixer.errors import BadArtifact
from mixer.judges.linear import Judge, Judges, load_words
from mixer.resources import JUDGES
from mixer.training.data import read_attribute, split_of
from mixer.training.judge import JudgeConfig, examples, measures, train_on, window
from mixer.values.mix import POLES

LEARNED = ("formality", "politeness", "sentiment", "simplicity")
OLD_WORDS = re.compile(
    r"\b(thee|thou|thy|thine|ye|hath|hast|doth|dost|shalt|wilt|unto|nigh|whence|hither|thither|yonder|ere|o'er|'twas"
    r"|'tis|wherefore|verily|naught|nay|aye|betwixt|oft|upon|whilst|alas|beheld|bade|spake"
    r"|(?!teeth|kenneth|elizabeth|macbeth)[a-z]{2,}eth)\b",
    re.IGNORECASE,
)
# 1 where the sign is there: verse has lines, excitement exclaims, old English has at least two of its words.
SIGNS: dict[str, Callable[[str], float]] = {
    "poetry": lambda text: float("\n" in text.strip()),
    "excitement": lambda text: float("!" in text),
    "archaic": lambda text: float(len(OLD_WORDS.findall(text)) >= 2),
}


class OutsideJudges:
    """Scores by judges that are trained on the spot, and by signs.

    Args:
        data: a folder with `attributes/NAME/{positive,negative}.txt.xz`.

    Attributes:
        accuracy: by attribute, on windows of texts of the test split; poles count alike.

    Raises:
        BadArtifact: the folder has no texts of an attribute.
    """

    def __init__(self, data: Path, config: JudgeConfig | None = None) -> None:
        words, config = load_words(JUDGES), config or JudgeConfig()
        texts = {name: {pole: read_attribute(data, name, pole) for pole in POLES} for name in LEARNED}
        judges = {}
        for name, poles in texts.items():
            if not all(poles.values()):
                raise BadArtifact(f"There are no texts of {name} in {data}.", "Point --outside at a folder with some.")
            learned = {pole: [text for text in own if split_of(text) == "judge"] for pole, own in poles.items()}
            judges[name] = Judge.of(train_on(examples(name, (), learned, config), words, config))
        self._judges = Judges(judges, words)
        self.accuracy = {name: self._accuracy(name, poles) for name, poles in texts.items()}

    def __call__(self, text: str) -> dict[str, float]:
        """Scores of one text by attribute, from 0 to 1."""
        return self._judges.scores(text) | {name: sign(text) for name, sign in SIGNS.items()}

    def _accuracy(self, name: str, poles: dict[str, list[str]], most: int = 1000) -> float:
        rng = np.random.default_rng(0)
        scores = {}
        for pole, texts in poles.items():
            unseen = [text for text in texts if split_of(text) == "test"][:most]
            scores[pole] = np.array(self._judges.score(name, [window(text, rng) for text in unseen]))
        return float(measures(scores["positive"], scores["negative"])["accuracy"])
