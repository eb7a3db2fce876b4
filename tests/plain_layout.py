"""Figures without a layout that is fitted to their labels, which takes half of the time that drawing does.

Importing this module is enough. What is drawn is the same, at other margins.
"""

from matplotlib.layout_engine import ConstrainedLayoutEngine

ConstrainedLayoutEngine.execute = lambda self, figure: None
