"""gradio's session states, bounded so that no client evicts those of others.

gradio keeps a fixed number of sessions and evicts the least recently used. A client that sends many new session hashes
would thereby evict everyone else's results. Here a session of the client with the most sessions is evicted.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar

from gradio.state_holder import StateHolder

CLIENT: ContextVar[str] = ContextVar("client", default="")  # who sends the request, as the rate limit counts


class FairStates(StateHolder):
    """The states of an application's sessions. Evicts the oldest session of the client that has the most."""

    def __init__(self) -> None:
        super().__init__()
        self._clients: dict[str, str] = {}

    def update(self, session_id: str) -> None:
        """Called by gradio at every use of a session, and where a new one has been added."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
                self._clients.setdefault(session_id, CLIENT.get())
            while len(self.session_data) > self.capacity:
                sessions = Counter(self._clients.get(one, "") for one in self.session_data)
                client = max(sessions, key=lambda one: sessions[one])
                evicted = next(one for one in self.session_data if self._clients.get(one, "") == client)
                del self.session_data[evicted]
                self._clients.pop(evicted, None)
                self.time_last_used.pop(evicted, None)
