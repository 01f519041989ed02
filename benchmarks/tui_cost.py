"""What the TUI costs while it follows a run of very many ranks: CPU of one core, at two refreshes a second.

    python -m benchmarks.tui_cost [--ranks 10000] [--seconds 60]

The application is the product's own, without a terminal; every poll brings something new, so a picture is
taken as often as its pace allows. Each view is open for the same time. What reading the events costs is
measured by `many_ranks.py`: it is the same for every viewer.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from distwatch.tui.app import DistwatchApp
from distwatch.tui.keys import VIEWS
from tests.tui.scripted import ScriptedSource, large_hang

SIZE = (160, 48)


class Busy(ScriptedSource):
    """A run of which there is always news."""

    async def poll(self) -> bool:
        await super().poll()
        return True


async def measure(ranks: int, seconds: float) -> dict[str, str]:
    """The share of a core by view."""
    app = DistwatchApp(Busy(large_hang(ranks)))
    found: dict[str, str] = {}
    async with app.run_test(size=SIZE) as pilot:
        while not app.session.picture.rank_statuses:
            await asyncio.sleep(0.5)
        began_s = time.process_time()
        app.session._retake()
        found["one picture"] = f"{time.process_time() - began_s:.2f} s"
        began_s = time.process_time()
        app.draw()
        await pilot.pause()
        found["one drawing"] = f"{1000 * (time.process_time() - began_s):.0f} ms"
        for view in VIEWS:
            app.action_view(view.name)
            await pilot.pause()
            began_s, wall_s = time.process_time(), time.perf_counter()
            await asyncio.sleep(seconds)
            share = (time.process_time() - began_s) / (time.perf_counter() - wall_s)
            found[view.name] = f"{share:.1%}"
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ranks", type=int, default=10_000)
    options.add_argument("--seconds", type=float, default=60.0, help="for each view")
    chosen = options.parse_args()
    found = asyncio.run(measure(chosen.ranks, chosen.seconds))
    print(f"| TUI on {chosen.ranks} ranks, {SIZE[0]} × {SIZE[1]} | |")
    print("|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
