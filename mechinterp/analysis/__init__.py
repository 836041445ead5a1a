"""What to ask of a trained network; each answer comes with its baseline and its control."""
