"""Exit codes of our processes. Standard library only."""

DONE = 0
REGRESSION = 1
MISTAKE = 2
"""The user's."""
FAILED = 3
"""Ours."""
NO_MEMORY = 4
"""Of a worker only: it ran out of memory."""
BUSY = 75
"""Of a worker only: another process works on the run."""
INTERRUPTED = 130
"""128 and SIGINT's number, as shells have it."""
