"""Contents of initializers: values read lazily, zeros, few bits."""
