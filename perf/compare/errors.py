"""What keeps a comparison from being made."""


class CompareError(Exception):
    """Its text names the remedy."""
