"""What a run has found: an artifact's model, numbers, tables and pictures.

A file for each result. Nothing here runs a step or sees a config: phases hand
plain values in, and the report reads files.
"""
