"""Models as files and graphs: reading, shapes, inputs, writing."""
