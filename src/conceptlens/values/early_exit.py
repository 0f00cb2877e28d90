"""The one way in which a forward pass ends before its last layer."""

from __future__ import annotations


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a model once the last layer that is read is done; caught around the call."""
