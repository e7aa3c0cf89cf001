"""Tensors in, tensors out: vision encoders, the connector, both language models and their kernels.

No files, no network, no strings: `runtime` loads the parameters and runs the models.
"""
