"""What is wrong with a source of pretrained weights."""


class SourceError(ValueError):
    """A source that cannot be used: one paragraph that names it and says what to do."""
