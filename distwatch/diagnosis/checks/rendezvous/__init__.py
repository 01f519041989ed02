"""rendezvous.*: ranks that cannot form their world."""
