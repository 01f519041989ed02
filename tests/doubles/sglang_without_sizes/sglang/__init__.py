"""A double of SGLang 0.5.23's parts that distwatch meets: its initializer takes no sizes."""

__version__ = "0.5.23"
