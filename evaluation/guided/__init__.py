"""Whether lesions have the character that was asked for, and what asking costs.

- wishes: what is asked for, and how a set of lesions that were asked for it is called
- judge_figures: how well the judge itself tells real lesions it has not seen
- asked_sets: sets of lesions, judged and measured
- obedience: asked against judged and achieved, by scale; leakage into what was not asked for
- cost: distances to real lesions by scale, and whether the goals are reached
"""
