"""Parts of a detector as nodes, shared by the passes."""
