"""What a trained model does, as arrays and figures: no text, no pictures."""
