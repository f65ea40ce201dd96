"""One real broker for all processes of a test run.

pytest-xdist runs the tests in several processes. The first test that needs the broker asks for it,
the controlling process starts it, and all of them share it to the end of the run.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from pathlib import Path

from tests.support.kafka import STEADY, RealBroker
from tests.support.waiting import wait_until

__all__ = ["SharedBroker"]

_LOOK_INTERVAL = 0.05
_START_TIMEOUT = 120.0


class SharedBroker:
    """A broker that starts when a process asks for it; belongs to the controlling process.

    Attributes:
        folder: Where processes ask for it and find its address.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kafka-shared-"))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shared-broker", daemon=True)
        self._thread.start()

    @staticmethod
    def address(folder: Path) -> str:
        """Return ``host:port`` of the broker of a folder; any process of the run.

        Raises:
            RuntimeError: It could not be started; the message says why.
        """
        (folder / "wanted").touch()
        answer = folder / "answer"
        wait_until(answer.exists, "the shared broker to start", _START_TIMEOUT)
        state, _, text = answer.read_text().partition("\n")
        if state != "started":
            raise RuntimeError(text)
        return text

    def close(self) -> None:
        """Stop the broker, if it was started."""
        self._ended.set()
        self._thread.join()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _run(self) -> None:
        while not (self.folder / "wanted").exists():
            if self._ended.wait(_LOOK_INTERVAL):
                return
        with contextlib.ExitStack() as stack:
            try:
                broker = stack.enter_context(RealBroker(STEADY))
            except Exception as error:
                self._answer(f"failed\n{error}")
                return
            self._answer(f"started\n{broker.bootstrap_servers}")
            self._ended.wait()

    def _answer(self, text: str) -> None:
        # Renamed into place: no process reads half of it.
        draft = self.folder / "draft"
        draft.write_text(text)
        draft.rename(self.folder / "answer")
