"""The program's first step, which imports nothing that takes time: an interrupt during imports is one line too."""

from __future__ import annotations

from onnxgraft.cli import stops


def main() -> None:
    """Entry point of the command line."""
    stops.end_at_once()
    from onnxgraft.cli.main import main as run

    run()
