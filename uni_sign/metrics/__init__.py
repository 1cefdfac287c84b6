"""Scores: pure functions of predictions and references."""
