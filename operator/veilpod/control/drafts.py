"""Since when something of an object's status waits to be written (`status.write`). Kept in memory: after a restart the wait begins anew."""


class Drafts:
    """By UID of the object; nothing waits longer than so many `seconds`."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._since: dict[str, float] = {}

    def left(self, uid: str, now: float) -> float:
        """For how many seconds a change may still wait. Its time begins with the first question."""
        return self._since.setdefault(uid, now) + self._seconds - now

    def written(self, uid: str) -> None:
        """Nothing waits any more."""
        self._since.pop(uid, None)
