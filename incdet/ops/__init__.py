"""Pure functions of tensors, without module state."""
