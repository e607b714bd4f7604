"""Pure step functions over callables and pytrees; the caller jits."""
