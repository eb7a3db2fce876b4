"""Requested against achieved attributes, and what a request costs.

- requested_values: the values that are requested, and the kinds of guidance
- judge_figures: how well the judge itself does on real lesions that it has not seen
- requested_sets: sets of lesions, judged and measured
- requested_vs_achieved: requested against judged and achieved values, by scale; leakage into other attributes
- cost: distances to real lesions by scale, and whether the goals are reached
"""
