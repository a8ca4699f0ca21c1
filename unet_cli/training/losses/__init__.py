"""Losses: pixel and region terms, and weighted sums of them."""
