"""Whether lesions have the character that was requested, and what asking costs.

- requests: what is requested, and how a set of lesions that were requested it is called
- judge_figures: how well the judge itself tells real lesions it has not seen
- requested_sets: sets of lesions, judged and measured
- requested_vs_achieved: requested against judged and achieved, by scale; leakage into what was not requested
- cost: distances to real lesions by scale, and whether the goals are reached
"""
