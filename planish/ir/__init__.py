"""The intermediate representations: graphs, ops, types, loop nests, and their meaning."""
