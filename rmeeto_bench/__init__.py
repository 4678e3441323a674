"""Speed and accuracy of token-merged Vision Mamba."""

__version__ = "0.1.0"
