"""The programs: they read the config, own the loops and call jit."""
