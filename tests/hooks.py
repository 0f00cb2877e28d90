"""What is left on a model when it should be as it was."""

from __future__ import annotations

from conceptlens.session import Session


def hooks_left(session: Session) -> list[str]:
    """Names of hooks on a session's transformer. (Diffusers itself leaves an empty registry behind.)"""
    found = []
    for part in session.pipeline.transformer.modules():
        found += list(part._forward_hooks) + list(part._forward_pre_hooks)
        if hasattr(part, "_diffusers_hook"):
            found += list(part._diffusers_hook.hooks)
    return [str(name) for name in found]
