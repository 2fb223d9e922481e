"""Coverage-guided fuzzing of what strangers may send. `python -m tests.fuzz` runs every target for a while."""
