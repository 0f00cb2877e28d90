"""How well methods find concepts: datasets, metrics, runs, reports."""
