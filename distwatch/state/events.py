"""Everything that can be written to a journal: frozen facts in the past tense, and their bytes.

An agent writes about its own process (`process_events`, `group_events`); an observer writes what it
sees from outside (`observer_events`, `endpoint_events`, `hardware_events`, `dump_events`,
`ray_events`, `storage_events`), of other observers (`link_events`), and what it does because of that
(`response_events`). Times are CLOCK_MONOTONIC nanoseconds of the host; they are in the frame, not in the event.
"""

# ruff: noqa: F403  # every event, and every part of one, is available here
from distwatch.state.codec import *
from distwatch.state.dump_events import *
from distwatch.state.endpoint_events import *
from distwatch.state.event import *
from distwatch.state.group_events import *
from distwatch.state.hardware_events import *
from distwatch.state.link_events import *
from distwatch.state.observer_events import *
from distwatch.state.old_snapshot import *
from distwatch.state.process_events import *
from distwatch.state.ray_events import *
from distwatch.state.response_events import *
from distwatch.state.snapshot import *
from distwatch.state.storage_events import *
