"""What mask entries save, how they are coupled, and masks for a model that has none."""
