"""The page that a person opens, and its figures."""
