"""Arguments of operators' rules: facts, the storage plan, and the edits that they may ask for."""
