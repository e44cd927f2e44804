"""Artifacts that need no Python: host code, the programs it runs, tables, a header, a linker."""
