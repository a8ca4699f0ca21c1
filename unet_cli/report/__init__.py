"""The HTML report of a run or an evaluation, and its figures."""
