"""Regression gates: speed against a base in interleaved pairs, counted quantities exactly, quality within intervals.

`bench.gates.gate` is the verb, and imports no torch; its workers, `bench.gates.worker`, do what needs it."""
