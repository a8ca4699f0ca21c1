"""Annotation files of other tools -> masks: shapes of each image as plain values, and their drawing."""
