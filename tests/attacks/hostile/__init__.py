"""A hostile program: attempts by name, each harmless when it succeeds. Standard library only, for it runs in a bare image."""
