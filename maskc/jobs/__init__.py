"""Work in processes of its own, and processes that are told to end."""
