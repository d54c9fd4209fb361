"""Training objectives: each draws its batch for a step, runs it through the model and propagates its loss back."""
