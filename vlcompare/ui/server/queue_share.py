"""A bound on what one client has in gradio's queue: events that wait, and results that nobody fetches; and what is done
as an event enters the queue.

gradio keeps the messages of an event until its stream is read, so results that are never read fill the memory; and its
queue counts no clients, so one can take every place in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlcompare.ui.server.result_streams import end_is_read
from vlcompare.ui.server.session_states import CLIENT

MAX_UNREAD = 32  # events of one client whose results are kept or at work
FULL = "You have as many calls waiting as one client may have: {most}. Wait for an answer, then try again."


class QueueShare:
    """One queue's bound.

    most: events of one client that may wait or be at work at once; entering: called with the session and the function
    of each event, by their ids, just before it is in the queue.
    """

    def __init__(
        self,
        queue: Any,
        most: int,
        most_unread: int = MAX_UNREAD,
        entering: Callable[[str | None, int | None], None] | None = None,
    ) -> None:
        self._queue, self._push, self._entering = queue, queue.push, entering
        self._most, self._most_unread = most, max(most, most_unread)
        self._clients: dict[str, str] = {}  # session -> client, in the order of arrival

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """In place of the queue's own `push`."""
        queue, client = self._queue, CLIENT.get()
        self._clients = {one: owner for one, owner in self._clients.items() if queue.pending_event_ids_session.get(one)}
        own = {one: queue.pending_event_ids_session[one] for one, owner in self._clients.items() if owner == client}
        if sum(event in queue.event_ids_to_events for events in own.values() for event in events) >= self._most:
            return False, FULL.format(most=self._most), "queue_full"
        unread = sum(map(len, own.values()))
        for session, events in own.items():  # the oldest results first
            if unread < self._most_unread:
                break
            if not any(event in queue.event_ids_to_events for event in events):
                unread -= len(events)
                queue.pending_event_ids_session.pop(session, None)
                queue.pending_messages_per_session.pop(session, None)
        if unread >= self._most_unread:
            return False, FULL.format(most=self._most), "queue_full"
        if self._entering is not None:
            self._entering(body.session_hash, body.fn_index)
        pushed = await self._push(body=body, request=request, username=username)
        if pushed[0]:
            self._clients.setdefault(body.session_hash, client)
            await end_is_read(body.session_hash)
        return pushed


def share_queue(queue: Any, most: int, entering: Callable[[str | None, int | None], None]) -> None:
    """Bound what each client has in the queue, and call `entering` as `QueueShare` does."""
    queue.push = QueueShare(queue, most, entering=entering).push
