"""Use a trained model for a task: fine-tune, predict, evaluate beside baselines, audit, report."""
