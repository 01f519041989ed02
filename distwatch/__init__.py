"""distwatch: knows, within seconds, why a distributed PyTorch job hangs."""

__version__ = "0.1.0"
