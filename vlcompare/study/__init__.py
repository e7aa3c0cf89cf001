"""The study: in-context retrieval learnt from nothing by both families, as grids of small trainings."""
