"""The version, for the rooms below the one that everybody enters by."""

__version__ = "0.1.0"
