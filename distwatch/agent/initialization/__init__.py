"""Forms a world step by step under deadlines, and says who keeps it from forming."""
