"""frostline: config-driven transfer-learning experiments that measure what the transfer bought."""

__version__ = "0.1.0"
