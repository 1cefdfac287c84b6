"""What turns a stage into a run: launch, loop, batches, optimizer, checkpoints, trackers."""
