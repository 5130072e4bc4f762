"""Errors that a user sees: one line that says what is wrong, where, and what to do."""

from __future__ import annotations


class OnnxgraftError(Exception):
    """Base of every error the command line prints as one line, without a traceback."""


class InputError(OnnxgraftError):
    """A file, folder or option given by the user cannot be used."""


class Refusal(OnnxgraftError):
    """The graph is not one that we can rewrite faithfully: names the node and the reason."""

    def __init__(self, reason: str, node: str | None = None) -> None:
        self.reason = reason
        self.node = node
        super().__init__(f"{reason} (node {node!r})" if node else reason)


class PassError(OnnxgraftError):
    """A pass failed, or left a graph that breaks an invariant: names the pass."""

    def __init__(self, pass_name: str, reason: str) -> None:
        self.pass_name = pass_name
        self.reason = reason
        super().__init__(f"pass {pass_name!r}: {reason}")


class ProofError(OnnxgraftError):
    """The compiled graph gives other answers than the file: names the part, what it was fed and what differs first."""


class PluginError(OnnxgraftError):
    """A plugin node whose attributes or inputs its schema does not allow."""


class TargetError(OnnxgraftError):
    """A target refused the graph, or is not available on this machine."""


class MissingExtraError(OnnxgraftError):
    """A package of an optional extra is absent: says what to install."""


def os_reason(error: OSError) -> str:
    """Why the operating system refused, in its words and without a path: "no such file or directory"."""
    return (error.strerror or str(error)).lower()


def add_note(error: BaseException, words: str) -> None:
    """Say more with an error that goes on; as Python's own method of that name, which 3.10 has not."""
    error.__notes__ = [*getattr(error, "__notes__", ()), words]  # type: ignore[attr-defined]
