"""x"""

FIGURES: dict[str, str] = {}
