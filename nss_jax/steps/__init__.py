"""Pure step functions over callables and pytrees; the caller jits.

They know no network of ours, no file and no config.
"""
