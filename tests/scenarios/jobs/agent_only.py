"""A rank with an agent and without torch. Usage: agent_only.py STEPS GATE; it ends once that opens."""

import distwatch.auto  # noqa: F401, I001
import sys

from steps import gate

from distwatch.agent import core

agent = core.start()
for number in range(int(sys.argv[1])):
    if agent is not None:
        agent.end_step(agent.begin_step("step", label=str(number)))
gate(sys.argv[2]).read(1)
