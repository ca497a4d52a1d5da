"""What compression costs in right answers: local datasets, metrics, statistics, lmms-eval, tuning."""
