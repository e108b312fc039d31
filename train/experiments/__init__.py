"""Experiments: heads trained on folds, judged, and compared.

In: tasks, tracks, features and a configuration. Out: a run with its scores, tables of ablations, audits of the folds,
scores of a trained run on another cache.
Promises: everything compared sees the same folds, seeds and frames; a score is never without its interval.
"""
