"""The commands of `uni-sign` beside training."""
