"""A double of SGLang 0.5.9's parts that distwatch meets: its initializer takes the sizes."""

__version__ = "0.5.9"
