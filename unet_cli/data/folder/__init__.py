"""The layout of a data folder: role, split and pairing of its files."""
