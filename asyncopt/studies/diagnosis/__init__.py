"""The state of a machine and a build, measured rates, and the predicted modes of a training."""
