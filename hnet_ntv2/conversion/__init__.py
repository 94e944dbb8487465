"""From source weights to a model that can start training, and routers that start sensibly."""
