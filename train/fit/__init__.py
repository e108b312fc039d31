"""Training of heads: the loop, fold by fold or all folds in one program, and what a step consists of."""
