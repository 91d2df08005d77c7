"""Datasets of captioned pictures, and corpora of text. Importing this package imports no torch."""
