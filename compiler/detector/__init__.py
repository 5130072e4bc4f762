"""What a detector is: the numbers and tensors that were recognised, and the formulas of its boxes."""
