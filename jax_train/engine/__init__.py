"""What is compiled: augmentation, model, loss, optimizer, steps, and their layout on devices."""
