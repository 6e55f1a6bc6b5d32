"""A submit of the original's kind: for each request one ORM commit and one SendMessage, in FastAPI's thread pool.

    python -m benchmarks.peers.original_app PORT      (of the peers' environment: psycopg)

DATABASE_URL, SQS_QUEUE_URL, AWS_ENDPOINT_URL.
"""

import json
import os
import sys
import uuid
from typing import Any

import boto3
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import JSON, Text, Uuid, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """SQLAlchemy's."""


class Submitted(Base):
    """A job as it was kept."""

    __tablename__ = "submitted"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    state: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]] = mapped_column(JSON)


class Asked(BaseModel):
    """The body."""

    params: dict[str, Any] = {}


app = FastAPI()
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"), pool_size=40)
sessions = sessionmaker(engine)
sqs = boto3.client("sqs", region_name="us-east-1")


@app.post("/submit", status_code=202)
def submit(asked: Asked) -> JSONResponse:
    """Keep it, send it, answer."""
    job = Submitted(id=uuid.uuid4(), state="PENDING", params=asked.params)
    with sessions() as session:
        session.add(job)
        session.commit()
        job_id = str(job.id)
    sqs.send_message(QueueUrl=os.environ["SQS_QUEUE_URL"], MessageBody=json.dumps({"jobId": job_id}))
    return JSONResponse({"jobId": job_id, "statusUrl": f"/jobs/{job_id}"}, 202, {"Retry-After": "3"})


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
