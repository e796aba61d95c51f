"""What stops a build; each text says what fell short and what to do."""


class BuildError(Exception):
    pass
