"""Neural modules: tensors in, tensors out."""
