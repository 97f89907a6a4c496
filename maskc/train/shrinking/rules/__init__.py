"""Rules of Keras layers, one file for each family: which channels they must be given, and which weights stay."""
