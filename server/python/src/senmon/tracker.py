"""Which points of a branch are new. Pure: no network, no clock.

What comes live may be missing, doubled, or taken back by a later attempt; curves that are asked for again fill it up.
"""

from senmon.metrics import Point


class Tracker:
    """What was seen of one branch. A point is known by its step and its time: another attempt's has another time."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self.step_last = 0
        self._stride: int | None = None

    def missing_before(self, step: int) -> tuple[int, int] | None:
        """First and last step of what is probably missing before a point that comes next; None where nothing is."""
        is_next = step <= self.step_last + (self._stride or 1)
        return None if is_next else (self.step_last + 1, step - 1)

    def take(self, batch: list[Point]) -> list[Point]:
        """The points of a batch that are new. One at a step that was passed takes back that step and all behind it."""
        fresh = []
        for point in batch:
            if self._seen.get(point.step) == point.at_ms:
                continue
            if point.step <= self.step_last:
                self._seen = {step: at_ms for step, at_ms in self._seen.items() if step < point.step}
            elif self._seen:
                distance = point.step - self.step_last
                self._stride = min(self._stride or distance, distance)
            self._seen[point.step] = point.at_ms
            self.step_last = point.step
            fresh.append(point)
        return fresh
