"""`make chaos`: operators that die at every crash point and at a thousand random moments, on a real cluster, and what is left of it."""
