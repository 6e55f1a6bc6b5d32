"""Celery over SQS, runs in the peers' own environment: `celery -A benchmarks.peers.celery_worker …`, or `fill COUNT`.

Reads QUEUE_URL, ENDPOINT_PORT, PREFETCH and MARKS: the file to which each task appends the time it ran, 8 bytes.
"""

import os
import struct
import sys
import time

from celery import Celery

QUEUE = "benchmark"

app = Celery("benchmark", broker=f"sqs://benchmark:benchmark@127.0.0.1:{os.environ['ENDPOINT_PORT']}")
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_prefetch_multiplier=int(os.environ.get("PREFETCH", "10")),
    broker_transport_options={
        "is_secure": False,
        "region": "us-east-1",
        "polling_interval": 0,
        "wait_time_seconds": 10,
        "visibility_timeout": 3600,
        "predefined_queues": {
            QUEUE: {
                "url": os.environ["QUEUE_URL"],
                "access_key_id": "benchmark",
                "secret_access_key": "benchmark",
            }
        },
    },
)
marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task(name="noop")
def noop() -> None:
    """Nothing but a mark, about a microsecond."""
    os.write(marks, struct.pack("d", time.time()))


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(int(sys.argv[2])):
            noop.apply_async(producer=producer)
