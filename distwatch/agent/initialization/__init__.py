"""Forms a world step by step under deadlines, and says which rank prevents it."""
