"""Normalizes answers for comparison as the official SQuAD script does; used for both labels and scores."""

import re
import string

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lowercases, removes ASCII punctuation and English articles, and collapses white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())
