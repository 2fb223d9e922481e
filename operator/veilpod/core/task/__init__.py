"""Pure: what a task is, what is known about it, what to do next. Open `decide` first."""
