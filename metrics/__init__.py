"""Features in, numbers out. Imports nothing of ours but the named leaf modules."""
