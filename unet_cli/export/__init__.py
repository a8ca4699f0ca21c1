"""Trained networks in files for other runtimes: pixels in, mask out; and whether these predict what we predict."""
