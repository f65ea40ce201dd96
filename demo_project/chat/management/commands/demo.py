"""`manage.py demo`: the whole demo with one command."""

import argparse
import asyncio
import errno
import ipaddress
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.management import BaseCommand, CommandError, call_command
from django.core.management.color import supports_color
from django.urls import reverse
from django.utils.termcolors import make_style

from demo_project.supervisor import SharedPort, WorkerFailed, WorkerPool
from kafka_layer.testing import EmbeddedBroker

WORKER_COLORS = ["cyan", "green", "yellow", "magenta", "blue", "red"]


class Command(BaseCommand):
    help = (
        "Starts the chat and the board: several daphne workers that share one port, workers for "
        "background jobs, and a program that writes prices. Without KAFKA_BOOTSTRAP_SERVERS in "
        "the environment it runs a small broker of its own."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--workers", type=_worker_count, default=3, help="how many (3)")
        parser.add_argument(
            "--job-workers", type=_job_worker_count, default=1, help="how many for jobs (1)"
        )
        parser.add_argument("--port", type=int, default=8000, help="0 for any free port (8000)")
        parser.add_argument("--host", default="127.0.0.1", help="IPv4 address (127.0.0.1)")

    def handle(
        self, *args: Any, workers: int, job_workers: int, port: int, host: str, **options: Any
    ) -> None:
        self.staff_token = settings.DEMO_STAFF_TOKEN or secrets.token_urlsafe(9)
        self.colored = supports_color() and not options["no_color"]
        try:
            shared_port = SharedPort(host, port)
        except (OSError, OverflowError) as error:
            raise CommandError(_why_not_bound(host, port, error)) from None
        with closing(shared_port), self._broker() as broker_environment:
            pool = WorkerPool(
                shared_port,
                workers,
                job_workers,
                {
                    "DJANGO_ALLOWED_HOSTS": ",".join([*settings.ALLOWED_HOSTS, host]),
                    "DJANGO_SECRET_KEY": settings.SECRET_KEY,
                    "DJANGO_DEBUG": os.environ.get("DJANGO_DEBUG", _debug_for(shared_port)),
                    "DEMO_STAFF_TOKEN": self.staff_token,
                    "PYTHONUNBUFFERED": "1",
                    **broker_environment,
                },
                self._print_line,
                access_log=options["verbosity"] > 1,
            )
            try:
                asyncio.run(self._serve(pool, shared_port))
            except WorkerFailed as failure:
                raise CommandError(str(failure)) from None

    @contextmanager
    def _broker(self) -> Iterator[dict[str, str]]:
        """Have a broker with the layer's topics; yield the environment that points to it."""
        servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
        if servers:
            self.stdout.write(f"Kafka is at {servers}.")
            call_command("kafka_setup_topics", stdout=self.stdout, stderr=self.stderr)
            yield {}
            return
        broker = EmbeddedBroker()
        broker.start()
        try:
            broker.config(**settings.KAFKA_LAYER)
            self.stdout.write(
                f"Started a broker of its own at {broker.bootstrap_servers}, which ends with the "
                "demo. Set KAFKA_BOOTSTRAP_SERVERS to use a real one."
            )
            yield {
                "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                "DEMO_EMBEDDED_BROKER": "1",
            }
        finally:
            broker.stop()

    async def _serve(self, pool: WorkerPool, port: SharedPort) -> None:
        """Run the workers until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop.set)

        def announce() -> None:
            host = "localhost" if port.host == "0.0.0.0" else port.host
            chat = f"http://{host}:{port.port}/"
            workers = f"{len(pool.web_names)} workers, {len(pool.job_names)} for jobs"
            self.stdout.write(
                self.style.SUCCESS(f"The chat is at {chat}") + f" ({workers}; Ctrl-C ends it)"
            )
            self.stdout.write(f"A board of live prices: {chat.rstrip('/')}{reverse('board')}")
            token = urlencode({"token": self.staff_token})
            servers = f"{reverse('kafka_layer:page')}?{token}"
            self.stdout.write(f"What the servers do: {chat.rstrip('/')}{servers}")
            announce = f"{reverse('announce')}?{token}"
            self.stdout.write(f"Announce something to everyone: {chat.rstrip('/')}{announce}")
            self.stdout.flush()

        running = asyncio.create_task(pool.run(announce))
        asked_to_stop = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([running, asked_to_stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await pool.stop()
        if running.done():
            running.result()
        running.cancel()
        self.stdout.write("The chat has ended.")

    def _print_line(self, worker: str, line: str) -> None:
        prefix = f"{worker} |"
        if self.colored:
            number = int(worker.rpartition("-")[2])
            prefix = make_style(fg=WORKER_COLORS[(number - 1) % len(WORKER_COLORS)])(prefix)
        self.stdout.write(f"{prefix} {line}")
        self.stdout.flush()


def _worker_count(value: str) -> int:
    if not 1 <= int(value) <= 32:
        raise argparse.ArgumentTypeError("between 1 and 32 workers")
    return int(value)


def _job_worker_count(value: str) -> int:
    if not 0 <= int(value) <= 8:
        raise argparse.ArgumentTypeError("between 0 and 8 job workers")
    return int(value)


def _debug_for(port: SharedPort) -> str:
    """Return DJANGO_DEBUG for workers of which nothing is said: on where only we can come."""
    return "1" if ipaddress.ip_address(port.host).is_loopback else "0"


def _why_not_bound(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken; choose another with --port."
    return f"Cannot listen on {host}:{port}: {error}."
