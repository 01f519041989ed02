"""Fails where the repository uses a phrase or a name that readers stumble over.

Every row says what to write instead. `make check` runs this; `python tools/check_words.py FILE…` looks at some files.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".py", ".md", ".toml", ".j2", ".html", ".js", ".css", ".tcss", "Makefile")
OWN = "tools/check_words.py"

PHRASES = {
    r"agent speaks from inside": "no rank runs distwatch; watching from outside",
    r"does not have all\b": "did not receive every record",
    r"are the least\b": "the minimum is 16",
    r"says not\b": "does not say; or what must be there: --shell must contain `{host}`",
    r"are not looked at": "could not list the cluster's nodes",
    r"also those to come": "including ones that join later",
    r"not the main ones alone": "Show all threads (default: main threads only)",
    r"whatever their age": "Remove runs of any age",
    r"derived from nothing": "is not set and cannot be inferred; set it yourself",
    r"is no text\b": "is not a text file",
    r"(get|gets|got) through\b": "the network is dropping data; cannot connect to the TCPStore",
    r"getting through\b": "the network is dropping data; cannot connect to the TCPStore",
    r"(stands?|stood|standing) still": "hangs; does not move",
    r"in vain": "are still waiting",
    r"waits? for each other at": "use different MASTER_ADDR:MASTER_PORT",
    r"never sent what": "has no matching send for rank 2's recv",
    r"what would end it": "the loop's exit condition is never met",
    r"nowhere to come from": "are still on `meta` and nothing will load them",
    r"placement group\S* [^.\n]{0,40}is not met": "Ray cannot schedule placement group X",
    r"does not see it does not blame": "The root never blames a rank on a host it cannot see",
    r"it mends what it can": "run it again to retry the hosts that failed",
    r"how many-th": "the 1-based index of",
    r"kernel's letters?\b": "the kernel's task state",
    r"goes on as without": "distwatch does not change what your job does",
    r"where (it|one|each|each of them|a rank|every rank|they) stands?\b": "what it is doing; its line",
}
"""Phrases, as regular expressions; a space also matches the break between two lines or string literals."""

NAMES = {
    "Standing": "RankStatus, LaunchEnvironment",
    "STANDING": "PERSISTENT_FAULTS",
    "HeldUp": "BlockedRank",
    "held_up": "blocked_ranks",
    "with_sight": "discount_unlinked",
    "Sight": "ViewerStatus",
    "ray_meeting": "ray_rendezvous",
    "meeting_places": "endpoints",
    "MeetingPlaces": "EndpointMonitor",
    "Pastime": "Activity",
    "waiting_on": "activity",
    "ray_words": "ray_causes",
    "once_each": "cache_by_identity",
    "checkup": "check_result",
    "Checkup": "CheckResult",
    "load_bars": "load_timeline",
    "closer_look": "probe_requests",
    "cohorts": "worlds",
    "frames_of_interest": "user_frame",
    "call_the_roll": "collect_missing",
}
"""Old names of ours, as whole words in code, and as names of files."""

_GAP = r"""(?:[\s"'#]|\bf(?=["']))+"""


class Hit(NamedTuple):
    path: str
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.found!r}: write: {self.instead}"


def find_hits(path: str, text: str) -> Iterator[Hit]:
    """The banned phrases and names in one file, its own name among them."""
    stem = Path(path).stem.removeprefix("test_")
    if stem in NAMES:
        yield Hit(path, 1, stem, NAMES[stem])
    for pattern, instead in _PATTERNS:
        for match in pattern.finditer(text):
            found = re.sub(_GAP, " ", match.group())
            yield Hit(path, text.count("\n", 0, match.start()) + 1, found, instead)


def _compiled() -> Iterator[tuple[re.Pattern[str], str]]:
    for phrase, instead in PHRASES.items():
        yield re.compile(rf"\b{phrase.replace(' ', _GAP)}", re.IGNORECASE), instead
    for name, instead in NAMES.items():
        yield re.compile(rf"\b{name}\b"), instead


_PATTERNS = tuple(_compiled())


def main(arguments: list[str]) -> int:
    paths = arguments or subprocess.check_output(["git", "ls-files"], text=True).splitlines()
    looked_at = [p for p in paths if p.endswith(SUFFIXES) and p != OWN and Path(p).is_file()]
    hits = [hit for path in looked_at for hit in find_hits(path, Path(path).read_text("utf-8"))]
    for hit in hits:
        print(hit)
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
