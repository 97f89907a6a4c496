"""Rules of plain and transposed convolutions."""
