"""What the command runs: phases on a workdir, each in a file of its own.

Here is what reads a config, trains and writes results; what is pure lives in
the rooms below, and nothing here is imported by them.
"""
