"""The version of the package, written by the build from the tags."""

from __future__ import annotations

try:
    from rmeeto_bench._version import __version__
except ImportError:  # a checkout that was never installed
    __version__ = "0.1.0.dev0+checkout"
__all__ = ["__version__"]
