"""Choice of the channels to remove: what the loss of each costs, and how many a target takes."""
