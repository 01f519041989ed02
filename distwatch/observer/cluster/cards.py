"""Where the roots of a cluster's runs are: a small private file in the root of a node's run folders.

With it a viewer on any node reaches the whole run, also while the cluster itself answers nobody.
"""

from __future__ import annotations

import os
import secrets
import stat

import msgspec

CARDS_FILE = "links.json"
_LIMIT = 1 << 20


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """The way to one run's root.

    Attributes:
        cluster: the address that names the cluster.
        host: the host on which the root's folder is.
        since_ns: when the root was first asked for, by that host's wall clock.
        ended: the root has ended, with its run; what it kept is on that host.
    """

    cluster: str
    place: str
    token: str
    host: str
    since_ns: int
    ended: bool = False


def read_cards(root: str) -> dict[str, Card]:
    """The cards of this node by the names of the runs; none where the file is not safe to use."""
    try:
        descriptor = os.open(
            os.path.join(root, CARDS_FILE),
            os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
        )
    except OSError:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        # Who could write it could send our viewers, and the token, to a place of their own.
        safe = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o077
        if not safe or status.st_uid != os.getuid():
            return {}
        try:
            return msgspec.json.decode(file.read(_LIMIT), type=dict[str, Card])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}


def write_cards(root: str, cluster: str, cards: dict[str, Card]) -> None:
    """Replaces what the file says of one cluster's runs; raises OSError where it cannot."""
    before = read_cards(root)
    others = {name: card for name, card in before.items() if card.cluster != cluster}
    after = {**others, **cards}
    if after == before:
        return
    fresh = os.path.join(root, f".{CARDS_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(
        fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(after))
        os.rename(fresh, os.path.join(root, CARDS_FILE))
    except OSError:
        os.unlink(fresh)
        raise
