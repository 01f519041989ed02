"""process.*: ranks that ended, or that live and make no progress."""
