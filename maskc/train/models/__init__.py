"""Keras models with masks: insertion, copying, and networks that come with the trainer."""
