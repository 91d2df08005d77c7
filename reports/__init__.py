"""Reads records and writes pages. Never imports torch."""
