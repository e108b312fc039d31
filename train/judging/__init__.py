"""Judging: what scores are worth, and on which tracks they may be taken.

In: scores per window, or per frame. Out: official metrics per frame with intervals, post-processing, folds, cautions.
Promises: what chooses (epochs, thresholds, smoothing) never sees what tests; parts of one recording and byte-identical
videos on both sides of a fold are said beside the score, and so are labels that leave nothing to choose.
"""
