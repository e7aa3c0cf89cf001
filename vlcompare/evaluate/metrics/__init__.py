"""Metrics as pure functions: strings, boxes and numbers in, numbers out. `vlcompare.evaluate.scoring` joins them."""
