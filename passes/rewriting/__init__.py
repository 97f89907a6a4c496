"""What an operator's rules are handed: facts, the storage plan, and the edits that they may ask for."""
