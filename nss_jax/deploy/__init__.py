"""Trained networks that leave: what one is, predicts, and is saved as.

Nothing here knows a run, its folders or its phases; only files of a saved
network are read and written.
"""
