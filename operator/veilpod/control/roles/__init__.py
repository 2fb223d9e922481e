"""The parts a release plays on chain. Each module exposes `async def create(context) -> Role`; roles never import each other."""
