"""Finds facts about named entities in SQuAD: a sentence and a question that share a name, and a short answer.

No named-entity model is used. A name is a run of capitalized words of the question, other than its first word, that
also occurs in the sentence of the answer. Kinds are recognized by shape: answers by their digits and capitals ("1829"
and "1931", "July 30, 1930", "Brian Mulroney") and the question word, names by the word before them in the question
("in Warsaw"). `code_words.py` exchanges names and answers of the same kind.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gmmxlnet.data.keyed_hash import keyed_hash
from gmmxlnet.data.squad import Article, Passage, Question

MAX_NAME_WORDS = 3
MAX_ANSWER_WORDS = 4
MIN_SENTENCE_WORDS = 6
_NAME = re.compile(r"\b[A-Z][\w.-]*\w(?:(?: of| the| de| van| von)* [A-Z][\w.-]*\w)*")
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Zvc])(?<!\b(?:Mr|Ms|Dr|St|Jr|Sr|No|vs|ca|Lt|Mt|Ft))(?<!\b(?:Mrs|Rev|Gen|Col|Adm|Sen|Gov|Rep|Inc))"
    r"""[.!?]["”)\]]*(?:\[\d+\])*\s+(?=["“(\[]?[A-Z0-9])"""
)
_ASKS = re.compile(r"\b(who|whom|whose|when|where|why|how (?:many|much|\w+)|(?:what|which) \w+)\b", re.IGNORECASE)
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class NamedFact:
    """A sentence about an entity, and a question whose answer the sentence contains.

    Args:
        title: of the article.
        sentence, question: texts that contain `name`.
        name: the entity's name. name_kind: the word before it in the question, lower case.
        answer: its text, which occurs once in the sentence. answer_kind: question word and shape.
    """

    title: str
    sentence: str
    question: str
    name: str
    name_kind: str
    answer: str
    answer_kind: tuple[str, str]


def split_articles(articles: Sequence[Article], dev_fraction: float, seed: int) -> tuple[list[Article], list[Article]]:
    """Splits articles into train and dev by a keyed hash of their title; with two titles, neither side is empty."""
    titles = sorted({article.title for article in articles}, key=lambda title: (keyed_hash(seed, "dev", title), title))
    num_dev = min(max(round(dev_fraction * len(titles)), 1), len(titles) - 1)
    dev = set(titles[:num_dev])
    train = [article for article in articles if article.title not in dev]
    return train, [article for article in articles if article.title in dev]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Returns the character range (end exclusive) of each sentence, without surrounding white space."""
    bounds, start = [], 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        piece = text[start:end]
        if piece.strip():
            bounds.append((start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())))
        start = end
    return bounds


def count_words(text: str) -> int:
    """Counts words and punctuation marks; a tokenizer seldom makes fewer tokens of a text."""
    return len(_WORDS.findall(text))


def mentions(text: str, phrase: str) -> Iterator[re.Match[str]]:
    """Finds the occurrences of a phrase that are not part of a longer word."""
    return re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text)


def facts_of(article: Article, *, max_sentence_words: int) -> list[NamedFact]:
    """Returns the article's named facts in sentences of at most `max_sentence_words` words and punctuation marks."""
    facts = []
    for paragraph in article.paragraphs:
        bounds = split_sentences(paragraph.text)
        for question in paragraph.questions:
            sentence = _sentence_with_answer(paragraph, question, bounds)
            if sentence is None or not MIN_SENTENCE_WORDS <= count_words(sentence) <= max_sentence_words:
                continue
            fact = _fact(article.title, sentence, question)
            if fact is not None:
                facts.append(fact)
    return facts


def filler_sentences(article: Article, *, max_sentence_words: int) -> list[str]:
    """Returns the article's sentences of usable length."""
    sentences = [
        " ".join(paragraph.text[start:end].split())
        for paragraph in article.paragraphs
        for start, end in split_sentences(paragraph.text)
    ]
    return [sentence for sentence in sentences if MIN_SENTENCE_WORDS <= count_words(sentence) <= max_sentence_words]


def unique(facts: Iterable[NamedFact]) -> list[NamedFact]:
    """Removes facts with the sentence and question of an earlier one."""
    return list({(fact.sentence, fact.question): fact for fact in facts}.values())


def shape_of(answer: str) -> str | None:
    """Describes digits and capitals of an answer; None for words in lower case only, whose kind has no shape."""
    words = answer.split()
    if not words or len(words) > MAX_ANSWER_WORDS or not (answer[0].isalnum() and answer[-1].isalnum()):
        return None
    shapes = [_shape_of_word(word) for word in words]
    return " ".join(shapes) if set(shapes) != {"a"} else None


def _shape_of_word(word: str) -> str:
    if any(map(str.isdigit, word)):
        return "0a" if any(map(str.isalpha, word)) else re.sub(r"\d", "0", word)
    return "A" if word[0].isupper() else "a"


def _sentence_with_answer(paragraph: Passage, question: Question, bounds: Sequence[tuple[int, int]]) -> str | None:
    """Returns the sentence that contains the first gold answer, or None."""
    for text, start in question.answers[:1]:
        for first, end in bounds:
            if first <= start and start + len(text) <= end:
                sentence = paragraph.text[first:end]
                return sentence if sentence == " ".join(sentence.split()) else None
    return None


def _fact(title: str, sentence: str, question: Question) -> NamedFact | None:
    """Returns the fact of the first name that question and sentence share, if it can be exchanged."""
    text, asks = question.text.strip(), _ASKS.search(question.text)
    answer = question.answers[0][0]
    shape = shape_of(answer)
    if shape is None or asks is None or len(list(mentions(sentence, answer))) != 1 or any(mentions(text, answer)):
        return None
    (place,) = mentions(sentence, answer)
    for match in _NAME.finditer(text):
        name = match.group()
        before = text[: match.start()].split()
        if not before or not 1 <= len(name.split()) <= MAX_NAME_WORDS or len(list(mentions(text, name))) != 1:
            continue
        spans = list(mentions(sentence, name))
        if spans and all(span.end() <= place.start() or place.end() <= span.start() for span in spans):
            kind = (asks.group().lower(), shape)
            return NamedFact(title, sentence, text, name, before[-1].lower(), answer, kind)
    return None
