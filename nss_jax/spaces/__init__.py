"""What is searched: search spaces, the spaces and archs in them, their cost.

It knows jax and numpy alone: no network, file, flag or device lives here.
"""
