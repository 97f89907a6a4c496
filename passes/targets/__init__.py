"""What a runtime does well and what it does badly, one folder for each."""
