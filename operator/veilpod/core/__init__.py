"""Pure: values and rules. No I/O, clock, randomness or environment except through arguments."""
