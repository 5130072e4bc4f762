"""Everything that observes a run: verification, texts and diffs, the numeric check, printing, reproducers."""

from onnxgraft.instruments.numeric import NumericCheck
from onnxgraft.instruments.postconditions import Promises
from onnxgraft.instruments.reproducer import Reproducer
from onnxgraft.instruments.texts import PrintText, Texts
from onnxgraft.instruments.verify import Verify, verify_graph

__all__ = ["NumericCheck", "PrintText", "Promises", "Reproducer", "Texts", "Verify", "verify_graph"]
