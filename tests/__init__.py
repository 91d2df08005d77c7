"""Tests: they mirror the packages and assert invariants. A package, because a dependency installs one of this name."""
