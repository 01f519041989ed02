"""Before a launch: plans, the environment and the machine, checked. Imports nothing by itself."""
