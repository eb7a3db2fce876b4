"""Translations between kinds of CT, judged where the truth is known.

- tasks: one kind is simulated from real scans of the other; unpaired sets for training, pairs for judging
- figures: what is measured of a translated crop, and tables of it
"""
