"""How a process for job code is started: its command line, its environment and the warden above it."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from todoke.runtime.tracing import for_job_code

# All that job code finds in its environment, besides a HOME of its own and the collector of traces if there is one: no
# key, no other URL, no secret.
ALLOWED = ("PATH", "LANG", "LC_ALL", "TZ")
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
WARDEN = Path(__file__).with_name("warden.py")


@dataclass(frozen=True)
class Program:
    """The job modules a child imports and the folder it may call its home."""

    jobs: tuple[str, ...]
    home: Path
    inline_bytes_max: int
    # Where job code may send its traces.
    otlp_url: str | None = None

    def command(self, cgroup: Path | None) -> list[str]:
        """The command line; it can be read by everyone on the machine."""
        options = {
            "jobs": self.jobs,
            "path": [entry or os.getcwd() for entry in sys.path],
            "inlineBytes": self.inline_bytes_max,
            "isTraced": self.otlp_url is not None,
        }
        warden = [sys.executable, "-I", "-S", str(WARDEN), str(os.getpid()), str(cgroup or "")]
        return [*warden, sys.executable, "-m", "worker.child", json.dumps(options)]

    def environment(self) -> dict[str, str]:
        """Everything a child finds in its environment."""
        kept = {name: os.environ[name] for name in ALLOWED if name in os.environ}
        traced = {TRACES: for_job_code(self.otlp_url)} if self.otlp_url is not None else {}
        return {**kept, **traced, "HOME": str(self.home), "TMPDIR": str(self.home)}

    @property
    def frame_bytes_max(self) -> int:
        """The largest frame a child has reason to send: a result kept inline, with every byte escaped, and names."""
        return 2**20 + 8 * self.inline_bytes_max
