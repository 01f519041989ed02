"""Inside the job's process: journal, pulse, deadlines written down. Standard library and msgspec only."""
