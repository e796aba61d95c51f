"""The one exception of load measurements."""


class LoadError(Exception):
    """Why nothing could be measured, with the remedy; the text is meant for the caller."""
