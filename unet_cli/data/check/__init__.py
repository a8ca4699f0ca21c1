"""Examination of a data folder: its content and its problems."""
