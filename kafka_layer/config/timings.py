"""Every time-out and interval that is not a setting, as one value that a test can replace."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Timings"]


@dataclass(frozen=True)
class Timings:
    """Times of one layer, in seconds; ``KafkaChannelLayer.timings`` holds the value in use.

    Attributes:
        start: The longest that a start may take: just under daphne's time-out for a websocket
            handshake.
        start_step: The least time-out of each step of a start.
        close: The longest that closing may take.
        upkeep: Between two rounds of the server's upkeep.
        refresh: Between two reads of the partition counts, which brokers do not announce.
        token: How much longer a start may take where oauth_cb or librdkafka fetches a token: each
            client waits for it, in whole seconds.
        connection_doubt: How long no client gets an answer, after one reported that it finds no
            broker, until the brokers count as lost. The upkeep asks a broker within that time.
        producer_pace: Between two rounds of the producer's thread while records are on their way.
        producer_rest: The longest rest of this thread while no record is on its way.
        producer_replace: The least time between two replacements of a producer after a fatal
            error.
        unknown_partition: How long a record waits for the producer's client to learn its partition:
            shorter than ``ack_timeout``, so that commands fail with the cause.
        partition_question: Between two questions for such a partition.
        topics: Between two checks for topics that were created again or got partitions, by servers
            that receive.
        look: Between two checks that a reader gets what the log holds.
        look_in_trouble: The same, for ``trouble`` after an error of the client.
        trouble: How long the checks are frequent after an error of a client.
        request: The time-out of a small request that can be repeated.
        repair: The longest that one attempt to create missing topics may take.
        repair_pause: Between two such attempts, so that the first one has taken effect.
        drop_summary: The least time between two log lines about drops of one cause.
        signals_linger: How long the thread that sends signals waits for another before it ends.
        close_signals: The least that a close waits for receivers of signals, however long the rest
            of the close took.
        echo: After which an event loop that was not seen to run counts as blocked.
        discard: That discards wait for servers of which nothing is known, while others gave no
            answer lately: divided by how many those are.
        discard_least: The least of these shares; brokers hand over an answer in a few milliseconds.
        silence: For which a server that gave no answer shortens the waits for others.
        stalled: Without a take, in a loop that runs, after which a full channel counts as stalled.
        holding_up: For which a full channel that takes messages now and then may delay those that
            keep up, between two drains.
        blocked_loop: After which a blocked event loop counts as if it ran, so that its channels can
            stall.
        job_unclaimed: After which a worker gives a job that no receive took back to the others.
        job_doubt: For which receives that took no job count as no demand, at first; doubled each
            time up to ``worker_idle``. A receive that begins to wait or takes a job ends it.
        worker_pause: Without demand, after which a worker fetches nothing more.
        worker_idle: Without demand, after which a worker leaves its share to the others.
        worker_park: Without a receive, after which a worker channel's client and thread end, also
            if no other process shares the work. The next receive starts them again.
        worker_join: For which a group of KIP-848 has no member, while a start waits to be one,
            until the broker counts as one that does not know that protocol.
        worker_look: Between two checks that a worker's client gets what the log holds.
        worker_answer: The time-out of the requests of such a check.
        worker_begin: For which a share of a stream waits until brokers tell where to begin; less
            than ``max.poll.interval.ms``.
        worker_stuck: After which a call of a worker's client that has not returned is suspected.
            librdkafka repeats an unanswered commit after ``socket.timeout.ms``, 10 s.
        read_back: The longest that a join or a leave waits until this server has read what its own
            process sent to the group before.
        read_back_window: How long a group that was sent to is remembered; also the pause after a
            ``read_back`` that timed out.
        history: The longest that a question for the past takes, with all that it waits for.
        history_answer: After which history is unavailable where no broker answers.
        look_back: For which a server that has just started holds up its messages, at one with an
            idempotency key, to learn which keys were used before its start.
        recovery: The longest that the recovery of a channel takes.
        read_on: For which a slow channel leaves its event loop and the interpreter to others, each
            time before it reads on from the log.
        history_idle: Without a question, after which the clients that read the past are freed.
        held_frame: The longest that the last frame of a handler is held back, to be sent with the
            place of its message.
        roll_call: Within which the servers that live answer a command to all of them.
        stream_start: The longest that the first channel waits for the starts of the streams.
        stream_idle: Without a channel, after which a server reads no stream any more.
        registry_retry: Between two attempts while a schema registry is away.
        registry: The longest that one question to a schema registry takes.
        registry_unknown: For which a registry is not asked again for a schema that it did not know.
        position_frame: The longest between two positions that a browser is told.
        ready: How old the last round trip may be by which a server counts as ready.
        ready_answer: The longest that the question takes whether a server is ready.
        round_trip: The longest that a round trip may take which that question begins; a later
            question finds it done.
        ask_servers: Between two questions to all servers for what the staff's page shows.
        ask_backlogs: Between two questions to the brokers for the backlogs of worker channels.
        looking: Without a look at the page's figures, after which no server is asked any more.
        gone: Without an answer, after which a server is no longer among those figures.
        page_ticket: For which a page may connect its websocket with the ticket that it got.
        page_session: After which that websocket ends, so that the page has to ask for another
            ticket, and whoever may see it no longer gets none.
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
    worker_stuck: float = 12.0
    read_back: float = 0.5
    read_back_window: float = 10.0
    history: float = 5.0
    history_answer: float = 2.0
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
