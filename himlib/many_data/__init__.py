"""Many data: a ratio of one datum, learned once, and the score of it that a large N does not bias."""

from himlib.many_data.ratio import train_ratio
from himlib.many_data.score import Pass, ScoreFit, ScoreOutcome, solve_score

__all__ = ["Pass", "ScoreFit", "ScoreOutcome", "solve_score", "train_ratio"]
