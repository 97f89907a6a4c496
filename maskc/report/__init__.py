"""What a compilation or a comparison found: as values, as JSON and in the terminal."""
