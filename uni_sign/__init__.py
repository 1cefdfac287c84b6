"""A distributed trainer for sign-language models, on DeepSpeed and Accelerate."""

__version__ = "0.1.0"
