"""One stage a file: model, data, loss and score of one kind of training."""
