"""The paper's comparisons on pictures, in miniature: matched pairs of small VLMs, trained and compared."""
