"""What holds for every test."""

from hypothesis import settings

# No test is timed: an example may wait for its turn on a busy machine.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")
