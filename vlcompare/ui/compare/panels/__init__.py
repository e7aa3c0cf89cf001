"""Pieces of the compare tab that stand by themselves: each builds its components into a place and connects them."""
