"""Average precision and mean IoU against annotated pictures."""
