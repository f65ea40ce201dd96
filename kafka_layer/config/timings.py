"""Every time-out and interval that is not a setting, as one value that a test can replace."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timings"]


@dataclass(frozen=True)
class Timings:
    """Times of one layer, in seconds; ``KafkaChannelLayer.timings`` holds the value in use.

    Attributes:
        start: Time-out of a start: just under daphne's time-out for a websocket handshake.
        start_step: Least time-out of each step of a start.
        close: Time-out of a close.
        upkeep: Interval of the server's upkeep.
        refresh: Interval of reading the partition counts, which brokers do not announce. Servers
            that only send then also look for topics that were created again.
        token: Time that a start gets in addition where oauth_cb or librdkafka fetches a token; each
            client waits for the token, in whole seconds.
        connection_doubt: Time without an answer to any client, after a client reported that it
            reaches no broker, until the brokers count as lost. The upkeep asks a broker meanwhile.
        producer_pace: Interval of the producer's thread while records are on their way.
        producer_rest: Longest rest of this thread while no record is on its way.
        reader_rest: Longest rest of a reader's thread while no record comes. Only after it does the
            thread read other partitions, or end.
        stream_rest: The same for the readers of streams, for whose turns callers wait.
        producer_replace: Least time between two replacements of a producer after a fatal error.
        unknown_partition: Time for which a record waits until the producer's client knows its
            partition: shorter than ``ack_timeout``, so that commands fail with the cause.
        partition_question: Interval of asking for such a partition.
        topics: Interval at which servers that receive look for topics that were created again, and
            for new partitions; also for members of the groups of worker channels.
        look: Interval of checking that a reader gets what the log holds.
        look_in_trouble: The same, for ``trouble`` after an error of the client.
        trouble: Time after an error of a client in which the checks are frequent.
        request: Time-out of a small request that can be repeated.
        repair: Time-out of one attempt to create missing topics, or to ask for topics with a new
            client.
        repair_pause: Time between two such attempts, in which the first one takes effect.
        drop_summary: Least time between two log lines about drops of one cause.
        signals_linger: Time for which the thread that sends signals waits for another one.
        close_signals: Least time that a close waits for receivers of signals, however long the rest
            of the close took.
        echo: Time after which an event loop that was not seen to run counts as blocked.
        discard: Time that discards wait for servers of which nothing is known, while other servers
            gave no answer lately; it is divided by the number of those.
        discard_least: Least of these shares. Brokers carry an answer within a few milliseconds.
        silence: Time for which a server that gave no answer shortens the waits for others.
        stalled: Time without a take, in a loop that runs, after which a full channel counts as
            stalled.
        holding_up: Time for which a full channel that takes messages now and then may delay those
            that keep up, between two drains.
        blocked_loop: Time after which a blocked event loop counts as if it ran, so that its
            channels can stall.
        job_unclaimed: Time after which a worker returns a job that no receive took.
        job_doubt: Time for which receives that took no job do not count as demand, at first; it is
            doubled each time, up to ``worker_idle``. It ends when a receive begins to wait or takes
            a job.
        worker_pause: Time without demand after which a worker stops fetching.
        worker_idle: Time without demand after which a worker leaves its partitions to the others.
        worker_park: Time without a receive after which a worker channel closes its client and ends
            its thread, also if no other process shares the work. The next receive starts both.
        worker_join: Time for which a group of KIP-848 has no member, while a start waits to become
            one, until the layer concludes that the broker does not know that protocol.
        worker_look: Interval of checking that a worker's client gets what the log holds.
        worker_answer: Time-out of the requests of such a check.
        worker_begin: Time that a worker of a stream waits until brokers answer where to begin; less
            than ``max.poll.interval.ms``.
        worker_retry: Pause after an unexpected error or a refusal of a worker's client, before the
            next client is made.
        worker_stuck: Time after which a call of a worker's client that has not returned is
            suspected. librdkafka repeats an unanswered commit after ``socket.timeout.ms``, 10 s.
        read_back: Time-out for a join or a leave that waits until this server has read what its own
            process sent to the group before.
        read_back_window: Time for which a group that was sent to is remembered; also the pause
            after a ``read_back`` that timed out.
        history: Time-out of a history query, with all that it waits for.
        history_answer: Time without an answer of a broker after which history is unavailable.
        hand_over: Time that an answer about the past may take, beyond its question's time-out, from
            the backplane's thread to the one that waits for it.
        look_back: Time for which a server that has just started delays its messages, when one has
            an idempotency key, to learn which keys were used before its start.
        recovery: Time-out of the recovery of a channel.
        read_on: Pause of a slow channel before each time that it reads further from the log, in
            which other channels and threads run.
        history_idle: Time without a query after which the clients that read the past are closed.
        held_frame: Longest time that the last frame of a handler is held back, to be sent with the
            position of its message.
        roll_call: Time within which live servers answer a command to all servers.
        stream_start: Time-out for the first channel, which waits for the starts of the streams.
        stream_idle: Time without a channel after which a server stops reading streams.
        registry_retry: Interval of attempts while a schema registry does not answer.
        registry: Time-out of one request to a schema registry.
        registry_unknown: Time for which a registry is not asked again for a schema that it did not
            know.
        position_frame: Longest time between two positions that a browser gets.
        ready: Greatest age of the last round trip with which a server counts as ready.
        ready_answer: Time-out of the question whether a server is ready.
        round_trip: Time-out of a round trip that such a question begins; it may end after the
            answer, and a later question finds its result.
        ask_servers: Interval of asking all servers for the figures of the page for staff.
        ask_backlogs: Interval of asking the brokers for the backlogs of worker channels.
        looking: Time after the last request of a page after which no server is asked any more.
        gone: Time without an answer after which a server is left out of those figures.
        page_ticket: Time within which a page may connect its websocket with its ticket.
        page_session: Time after which that websocket ends, so that the page has to request another
            ticket. Users who may no longer see the page get none.
    """

    start: float = 4.5
    start_step: float = 0.5
    close: float = 5.0
    upkeep: float = 1.0
    refresh: float = 30.0
    token: float = 10.0
    connection_doubt: float = 1.5
    producer_pace: float = 0.01
    producer_rest: float = 0.25
    reader_rest: float = 0.2
    stream_rest: float = 0.1
    producer_replace: float = 1.0
    unknown_partition: float = 3.0
    partition_question: float = 0.1
    topics: float = 3.0
    look: float = 5.0
    look_in_trouble: float = 0.3
    trouble: float = 30.0
    request: float = 1.0
    repair: float = 5.0
    repair_pause: float = 1.0
    drop_summary: float = 10.0
    signals_linger: float = 1.0
    close_signals: float = 0.5
    echo: float = 1.0
    discard: float = 1.0
    discard_least: float = 0.05
    silence: float = 60.0
    stalled: float = 0.25
    holding_up: float = 1.0
    blocked_loop: float = 10.0
    job_unclaimed: float = 0.1
    job_doubt: float = 1.0
    worker_pause: float = 1.0
    worker_idle: float = 5.0
    worker_park: float = 60.0
    worker_join: float = 1.5
    worker_look: float = 3.0
    worker_answer: float = 2.0
    worker_begin: float = 10.0
    worker_retry: float = 1.0
    worker_stuck: float = 12.0
    read_back: float = 0.5
    read_back_window: float = 10.0
    history: float = 5.0
    history_answer: float = 2.0
    hand_over: float = 0.5
    look_back: float = 2.0
    history_idle: float = 10.0
    held_frame: float = 0.05
    position_frame: float = 25.0
    recovery: float = 4.0
    registry: float = 4.0
    registry_unknown: float = 1.0
    roll_call: float = 0.5
    stream_start: float = 1.0
    stream_idle: float = 5.0
    registry_retry: float = 1.0
    read_on: float = 0.001
    ready: float = 5.0
    ready_answer: float = 0.8
    round_trip: float = 3.0
    ask_servers: float = 1.0
    ask_backlogs: float = 5.0
    looking: float = 10.0
    gone: float = 60.0
    page_ticket: float = 60.0
    page_session: float = 300.0
