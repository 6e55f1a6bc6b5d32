"""What keeps an answer from coming, and whose fault that is."""

import errno
import ssl

from todoke.model.delivery import Reason

# What is missing then is ours: file descriptors, memory, local ports.
OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)


class SendError(Exception):
    """No answer came. `reason` says why; SENDER means the fault is ours and the receiver was not to blame.

    peer: the receiver's address, None when no connection stood.
    """

    def __init__(self, reason: Reason, peer: str | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.peer = peer


def send_error(error: OSError, otherwise: Reason) -> SendError:
    """What `error` means while connecting or sending; `otherwise` when it does not say more."""
    if error.errno in OWN_FAULTS and not isinstance(error, ssl.SSLError):
        return SendError(Reason.SENDER)
    if isinstance(error, TimeoutError):
        return SendError(Reason.TIMEOUT)
    return SendError(Reason.TLS if isinstance(error, ssl.SSLError) else otherwise)
