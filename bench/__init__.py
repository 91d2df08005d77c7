"""The top layer: configuration, data, runs and the command line. Importing this package imports no torch."""

__version__ = "0.1.0"
