"""The Demo corpus' sentences: which signs follow each other, what they mean, and which clips there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from uni_sign.data.demo.lexicon import BY_ROLE, ROLES, SIGNS, Sign

SPLITS = ("train", "dev", "test")
LANGUAGES = ("English", "Chinese")

_LETTERS = {
    "T": "time",
    "P": "place",
    "S": "subject",
    "A": "adverb",
    "V": "verb",
    "N": "number",
    "J": "adjective",
    "O": "object",
    "Q": "tag",
}
# Signing order: as in both languages, but that an adjective follows its noun.
_TEMPLATES = (
    *("TSVO", "PSVO", "SVNO", "SVOJ", "SAVO"),
    *("TSVNO", "TSVOJ", "PSVNO", "PSVOJ", "SVNOJ", "SAVOJ", "TPSVO", "TSAVO", "SVOJQ", "TSVOQ"),
    *("TSVNOJ", "PSVNOJ", "TPSVOJ", "TPSVNO", "PSAVOJ", "SAVNOJ", "SVNOJQ"),
)
# Utterances of one to three signs, for training alone: a learner meets words before sentences.
_PHRASES = ("S", "O", "T", "P", "V", "OJ", "NO", "SV", "VO", "AV", "NOJ", "TSV", "PSV", "SVO", "SAV", "VOJ")
_PHRASE_SHARE = 0.4
_SPOKEN_ORDER = ("time", "place", "subject", "adverb", "verb", "number", "adjective", "object")


@dataclass(frozen=True)
class Clip:
    """One video to be: `index` counts the clips of its kind and split; an isolated clip holds one sign."""

    name: str
    split: str
    index: int
    isolated: bool
    language: str
    signs: tuple[Sign, ...]

    @property
    def text(self) -> str:
        """The label: a sentence, or for an isolated sign the bare word."""
        if not self.isolated:
            return sentence(self.signs, self.language)
        return self.signs[0].english if self.language == "English" else self.signs[0].chinese

    @property
    def gloss(self) -> list[str]:
        """The glosses in signing order."""
        return [sign.gloss for sign in self.signs]


class _Decks:
    """Draws signs of a role like cards from a shuffled pack, so that all come equally often."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._packs: dict[str, list[Sign]] = {role: [] for role in ROLES}

    def draw(self, role: str) -> Sign:
        pack = self._packs[role]
        if not pack:
            cards = BY_ROLE[role]
            pack.extend(cards[i] for i in self._rng.permutation(len(cards)))
        return pack.pop()


def sentence(signs: Sequence[Sign], language: str) -> str:
    """The sentence that signs in signing order mean, e.g. "Mother buys three red apples." """
    said = {sign.role: sign for sign in signs}
    spoken = [said[role] for role in _SPOKEN_ORDER if role in said]
    asks = "tag" in said or any(sign.gloss == "WHO" for sign in signs)
    return _english(spoken, said.get("tag"), asks) if language == "English" else _chinese(spoken, said.get("tag"), asks)


def _english(spoken: Sequence[Sign], tag: Sign | None, asks: bool) -> str:
    words = " ".join(sign.english_phrase for sign in spoken)
    ending = f", {tag.english_phrase}" if tag else ""
    return f"{words[0].upper()}{words[1:]}{ending}{'?' if asks else '.'}"


def _chinese(spoken: Sequence[Sign], tag: Sign | None, asks: bool) -> str:
    measure = next((sign.measure for sign in spoken if sign.role == "object"), "")
    words = "".join(sign.chinese_phrase + (measure if sign.role == "number" else "") for sign in spoken)
    ending = f"，{tag.chinese_phrase}" if tag else ""
    return f"{words}{ending}{'？' if asks else '。'}"


def plan(seed: int, sizes: dict[str, int], isolated_per_sign: int) -> list[Clip]:
    """Every clip of the corpus, in order; no gloss sequence and no text of a sentence occurs twice.

    A share of the training clips are phrases of one to three signs, which do recur; sentences have four or more.
    `sizes` gives the sentences per split. Of each sign's `isolated_per_sign` one-sign clips (0, or 3 and
    more) one goes to dev, one to test, the others to train.
    """
    return [*_sentence_clips(seed, sizes), *_isolated_clips(isolated_per_sign)]


def _sentence_clips(seed: int, sizes: dict[str, int]) -> Iterator[Clip]:
    taken: set[tuple[str, ...] | str] = set()
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number])
        decks = _Decks(rng)
        for index in range(sizes[split]):
            # Two neighbours are alike, so that phrases and sentences come in both languages.
            phrase = split == "train" and (index // 2) % 10 < 10 * _PHRASE_SHARE
            signs = _new_phrase(rng, decks) if phrase else _new_sentence(rng, decks, taken)
            yield Clip(f"{split}-{index:05d}", split, index, False, LANGUAGES[index % 2], signs)


def _new_phrase(rng: np.random.Generator, decks: _Decks) -> tuple[Sign, ...]:
    template = _PHRASES[int(rng.integers(len(_PHRASES)))]
    return tuple(decks.draw(_LETTERS[letter]) for letter in template)


def _new_sentence(rng: np.random.Generator, decks: _Decks, taken: set[tuple[str, ...] | str]) -> tuple[Sign, ...]:
    while True:
        template = _TEMPLATES[int(rng.integers(len(_TEMPLATES)))]
        signs = tuple(decks.draw(_LETTERS[letter]) for letter in template)
        marks: set[tuple[str, ...] | str] = {
            tuple(sign.gloss for sign in signs),
            *(sentence(signs, language) for language in LANGUAGES),
        }
        if not marks & taken:
            taken |= marks
            return signs


def _isolated_clips(per_sign: int) -> Iterator[Clip]:
    counts = {"train": per_sign - 2, "dev": 1, "test": 1} if per_sign else dict.fromkeys(SPLITS, 0)
    for split, count in counts.items():
        for index in range(count * len(SIGNS)):
            # Round by round through the signs, the language changing with each, so that a sign has both.
            language = LANGUAGES[(index + index // len(SIGNS)) % 2]
            sign = SIGNS[index % len(SIGNS)]
            yield Clip(f"word-{split}-{index:05d}", split, index, True, language, (sign,))
