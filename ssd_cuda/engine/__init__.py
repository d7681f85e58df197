"""The main job: train, evaluate, keep and restore a detector."""
