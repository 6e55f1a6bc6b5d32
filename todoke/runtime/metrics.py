"""Every measure Todoke shows to Prometheus: names, units, labels. Rooms count at the place where a thing happens.

A label is a job type or a word from a short list, never a tenant or an id: what is unbounded fills a monitor.
"""

import contextlib
from collections.abc import Iterator
from typing import TypeAlias

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

log = structlog.get_logger()

LOOPBACK = "127.0.0.1"
WAIT_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)
RUN_SECONDS = (0.01, 0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)
RECOVERY_SECONDS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25, 40, 60, 120, 300)
LAG_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_ITEMS = (1, 2, 5, 10, 20, 50, 100, 200)
# Long polls last up to 30 seconds.
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# From the queue to the claim.
UNCLAIMED_HINTS = Counter(
    "todoke_unclaimed_hints", "Hints that claimed nothing, most of them duplicates, by what became of them.", ["fate"]
)
QUEUE_WAIT = Histogram(
    "todoke_queue_wait_seconds", "From the time a job was due to its claim.", ["type"], buckets=WAIT_SECONDS
)
REQUESTS_LIMITED = Counter(
    "todoke_requests_limited", "Requests refused because of a limit: `submits`, `reads` or `queue`.", ["limit"]
)
QUEUE_DEPTH = Gauge("todoke_queue_depth", "Jobs that wait for their start, of all tenants, at the last count.")

STRAIGHT_CLAIMING = Gauge(
    "todoke_straight_claiming", "1 while this worker takes jobs straight from PostgreSQL because SQS is away."
)
SLOTS = Gauge("todoke_slots", "Jobs this worker may run at once.")
BUSY_SLOTS = Gauge("todoke_slots_busy", "Jobs this worker runs now.")

# From the claim to the end.
ATTEMPTS = Counter(
    "todoke_attempts", "Attempts that ended, by error code; OK for a success, OWN for codes of job code.", ["code"]
)
RUN_TIME = Histogram(
    "todoke_run_seconds", "From the claim of a job to the end of the attempt.", ["type", "outcome"], buckets=RUN_SECONDS
)
STALE_FINISHES = Counter("todoke_stale_finishes", "Outcomes that came too late: the lease had passed on.")
LOST_LEASES = Counter("todoke_lost_leases", "Leases a heartbeat found lost while the attempt was running.")

# Repair.
RECOVERY_TIME = Histogram(
    "todoke_recovery_seconds", "From the end of a lost worker's lease to the next claim.", buckets=RECOVERY_SECONDS
)
INFRA_LOSSES = Counter("todoke_infra_losses", "Attempts lost to something other than job code, by cause.", ["cause"])
REDISPATCHES = Counter("todoke_redispatches", "Hints a sweep sent again.")
DOOMED_JOBS = Counter("todoke_doomed_jobs", "Jobs a sweep ended because nobody may run them any more.", ["code"])
DEAD_LETTERS = Counter("todoke_dead_letters", "Messages that came from the dead-letter queue.", ["verdict"])
PRUNED_ROWS = Counter("todoke_pruned_rows", "Rows removed by age.", ["kind"])

# Webhooks.
DELIVERY_ATTEMPTS = Counter("todoke_delivery_attempts", "Attempts at a delivery, by how each ended.", ["reason"])
DELIVERY_LAG = Histogram(
    "todoke_delivery_lag_seconds", "From the event to the start of its first attempt.", buckets=WAIT_SECONDS
)
DELIVERIES_IN_FLIGHT = Gauge("todoke_deliveries_in_flight", "Deliveries this notifier is sending.")
DELIVERIES_PARKED = Counter("todoke_deliveries_parked", "Deliveries that nobody tries any more, by reason.", ["reason"])
LOST_DELIVERIES = Counter("todoke_delivery_lost_leases", "Attempts whose notifier was lost before it recorded them.")
CALLBACK_TESTS = Counter("todoke_callback_tests", "Tests of callbacks that were run, by their grade.", ["grade"])
ENDPOINT_CHANGES = Counter(
    "todoke_endpoint_changes", "Endpoints whose breaker opened or closed, that cooled down or were disabled.", ["to"]
)
WEBHOOK_WARNINGS = Counter(
    "todoke_webhook_warnings", "Events that failed for the fourth time, endpoints failing for long.", ["warning"]
)
# Of the whole database, and so the same from every notifier: take one of them, not the sum.
ENDPOINTS = Gauge(
    "todoke_endpoints", "Endpoints that are not as usual, by how they stand; counted up to 10,000.", ["standing"]
)
PARKED_ROWS = Gauge("todoke_deliveries_parked_now", "Deliveries that stand parked; counted up to 10,000.")
OLDEST_DUE = Gauge("todoke_delivery_oldest_due_seconds", "How long the oldest due delivery has waited.")

# Requests. A route is a template, never an address.
REQUESTS = Counter("todoke_http_requests", "Requests that were answered.", ["method", "route", "status"])
REQUEST_TIME = Histogram(
    "todoke_http_request_seconds",
    "From the head of a request to the end of its answer; of a stream, to its beginning.",
    ["method", "route"],
    buckets=REQUEST_SECONDS,
)
Measured: TypeAlias = tuple[Counter, Histogram]

# Streams.
STREAMS = Gauge("todoke_streams", "Streams this process holds open.")
LONG_POLLS = Gauge("todoke_long_polls", "Long polls this process holds open.")
LONG_POLL_ENDS = Counter("todoke_long_poll_ends", "Long polls that were answered, by outcome.", ["outcome"])
STREAM_ENDS = Counter("todoke_stream_ends", "Streams that ended, by reason.", ["reason"])
STREAM_REPLAYS = Counter(
    "todoke_stream_replays", "Frames of the log sent to streams, by where they came from.", ["source"]
)
STREAM_RESETS = Counter("todoke_stream_resets", "Readers whose cursor could not be continued, by reason.", ["reason"])
STREAM_GAPS = Counter("todoke_stream_gaps", "Holes found in a job's log. Any at all is a fault.")
STREAM_LAG = Histogram(
    "todoke_stream_lag_seconds", "From a change to its frame being handed to the streams.", buckets=LAG_SECONDS
)
SWEEP_FINDS = Counter("todoke_sweep_finds", "Changes a sweep found whose NOTIFY had not been heard.")
RING_BYTES = Gauge("todoke_ring_bytes", "Memory held by recent events of watched jobs.")
FEED_RING_BYTES = Gauge("todoke_feed_ring_bytes", "Memory held by recent events of watched tenant feeds.")
FEED_HORIZON_AGE = Gauge(
    "todoke_feed_horizon_age_seconds",
    "How long the oldest open transaction has kept tenant feeds from going on; 0 when nothing is open or nobody reads.",
)

# The bell: NOTIFY between processes.
HINTS_SENT = Counter("todoke_hints_sent", "Hints given to NOTIFY.")
HINTS_RECEIVED = Counter("todoke_hints_received", "Hints heard from NOTIFY.")
HINTS_COALESCED = Counter("todoke_hints_coalesced", "Hints that went out as part of a later or wider one.")
NOTIFY_REFUSED = Counter("todoke_notify_refused", "Commits repeated without NOTIFY because its queue was full.")
LISTENER_UP = Gauge("todoke_listener_up", "1 while NOTIFY is proven to be heard.")
LISTENER_RECONNECTS = Counter("todoke_listener_reconnects", "How often the LISTEN connection was made anew.")
ECHO_TIME = Histogram("todoke_echo_seconds", "From a NOTIFY to oneself to its echo.", buckets=LAG_SECONDS)
NOTIFY_QUEUE_USAGE = Gauge("todoke_notify_queue_usage", "Share of PostgreSQL's NOTIFY queue in use, 0 to 1.")

# Any process.
BATCH_SIZE = Histogram("todoke_batch_items", "Items in one flush.", ["batcher"], buckets=BATCH_ITEMS)
LOOP_LAG = Histogram("todoke_loop_lag_seconds", "How late the event loop answers.", buckets=LAG_SECONDS)
LOOP_HEALTHY = Gauge("todoke_loop_healthy", "0 while the event loop has not answered for too long.")
LOOP_STALLS = Counter("todoke_loop_stalls", "How often the event loop did not answer for too long.")


def request_measures(method: str, route: str, status: int) -> Measured:
    """What counts and times requests of this kind; to be kept, because finding it costs more than counting."""
    return REQUESTS.labels(method, route, str(status)), REQUEST_TIME.labels(method, route)


@contextlib.contextmanager
def shown_on(port: int) -> Iterator[None]:
    """Show the measures at http://127.0.0.1:`port`/metrics during the block; 0: nowhere.

    A port that is taken costs the measures, not the work: it is logged.
    """
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, LOOPBACK)
    except OSError as error:
        log.warning("metrics.unshown", port=port, reason=str(error))
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
