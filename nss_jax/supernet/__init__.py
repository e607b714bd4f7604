"""The weight-sharing network, masked and sliced, with the same numbers.

How it is trained, by what data and on which devices, is for the rooms above.
"""
