"""The functions of `planish.numpy`, by kind; each works on tensors, and at once on arrays."""
