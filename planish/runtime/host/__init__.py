"""Host code: what ships inside artifacts around the kernels, written in a small part of Python."""
