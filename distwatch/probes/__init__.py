"""Read-only looks from outside: processes, stacks, exits, hosts, devices, and the processes of a job."""
