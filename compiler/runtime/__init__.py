"""Pictures in, detections out: placing, running, reading outputs, pasting masks, drawing, JSON."""
