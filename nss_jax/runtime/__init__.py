"""The outside world: files, checkpoints, processes, devices, what is shown.

One thing per file, each of use to any program; nothing here knows a network, a
search or a phase.
"""
