"""Losses: their terms, of pixels and of regions, and sums of them."""
